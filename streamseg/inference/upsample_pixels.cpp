// Pixels of cells that are not filled: their labels, and the confidence where it is wanted or decides.
#include "upsample.h"

namespace upsample {
namespace {

// As exp_below_zero() has them. One by one, of which the compiler makes better vectors than of comparisons of vectors.
inline __attribute__((always_inline)) Floats exps(Floats v) {
  float of[kLanes];
  std::memcpy(of, &v, sizeof v);
  for (int i = 0; i < kLanes; ++i) of[i] = exp_below_zero(of[i]);
  return load<Floats>(of);
}

// What the pixels of a vector need for their decision, and their labels: as numbers one by one, of which the compiler
// makes better vectors than of comparisons of vectors.
struct Lanes {
  float sum[kLanes], members[kLanes];  // bounds of exponentials, of all classes and of those of the label
  int32_t label[kLanes];
};

// No less than exp of (v - best) * sharpness, where factor = sharpness * kBits.
inline __attribute__((always_inline)) Floats over_exps(Floats v, Floats best, float factor) {
  Floats bits = (v - best) * factor + kOne;
  bits = bits > 0.0f ? bits : Floats{};
  const Ints whole = __builtin_convertvector(bits, Ints);
  return load<Floats>(&whole);
}

// Take the labels away of pixels that are less probable than `least`; returns whether bounds decide over all of them.
inline __attribute__((always_inline)) bool decided(const Lanes& lanes, float least, int32_t* __restrict to) {
  int32_t open = 0;
  for (int i = 0; i < kLanes; ++i) {
    const float sum = lanes.sum[i], less = (sum - 1.0f) * (1.0f / kMore) + 1.0f;
    const float members = lanes.members[i], fewer = (members - 1.0f) * (1.0f / kMore) + 1.0f;
    const bool keep = sum * (least * 1.0001f) <= fewer;
    const bool drop = less * (least * 0.9999f) > members;
    to[i] = keep ? lanes.label[i] : kIgnore;
    open |= keep | drop ? 0 : 1;
  }
  return open == 0;
}

// The confidence of the pixels of a vector in 1/255, not yet cut to whole numbers; as by_rows() has it.
inline __attribute__((always_inline)) Floats exact(const Job& job, const float* values, Floats best, Ints label,
                                                   const int32_t* published) {
  if (job.probabilities) {
    Floats p = best;
    if (job.merges) {
      p = Floats{};
      for (int c = 0; c < job.classes; ++c)
        p += label == published[c] ? load<Floats>(values + c * kGroup * kLanes) : Floats{};
    }
    p = p > 0.0f ? p : Floats{};
    p = p < 1.0f ? p : Floats{} + 1.0f;
    return 255.0f * p + 0.5f;
  }
  Floats sum = Floats{}, members = Floats{} + (job.merges ? 0.0f : 1.0f);
  for (int c = 0; c < job.classes; ++c) {
    const Floats e = exps((load<Floats>(values + c * kGroup * kLanes) - best) * job.sharpness);
    sum += e;
    if (job.merges) members += label == published[c] ? e : Floats{};
  }
  return 255.0f * members / sum + 0.5f;
}

inline __attribute__((always_inline)) void put(const int32_t* from, int x, int W, uint8_t* to) {
  uint8_t bytes[kLanes];
  for (int i = 0; i < kLanes; ++i) bytes[i] = static_cast<uint8_t>(from[i]);
  if (x + kLanes <= W)
    std::memcpy(to + x, bytes, kLanes);
  else
    std::memcpy(to + x, bytes, W - x);
}

// The highest value of each pixel and the class that it is published as; where Keep, the values of all classes, too.
template <bool Keep>
inline __attribute__((always_inline)) void find_highest(int classes, const Columns& columns, const Rows& rows,
                                                        float weight, const int* places, const int32_t* published,
                                                        Floats* best, Ints* label, float* values) {
  const size_t apart = rows.apart;
  const float *above[kGroup], *below[kGroup];
  Floats across[kGroup];
  Ints at[kGroup];
  for (int g = 0; g < kGroup; ++g) {
    const int first = columns.first[places[g]];
    at[g] = load<Ints>(columns.first.data() + places[g]) - first;
    across[g] = load<Floats>(columns.weight.data() + places[g]);
    above[g] = rows.above + first;
    below[g] = rows.below + first;
    best[g] = Floats{} - INFINITY;
    label[g] = Ints{} + published[0];
  }
  for (int c = 0; c < classes; ++c) {
    for (int g = 0; g < kGroup; ++g) {
      const Floats from = load<Floats>(above[g] + apart * c), to = load<Floats>(below[g] + apart * c);
      const Floats row = from + weight * (to - from);
      const Floats left = shuffle(row, at[g]);
      const Floats right = shuffle(row, at[g] + 1);
      const Floats v = left + across[g] * (right - left);
      const Ints wins = v > best[g];
      best[g] = wins ? v : best[g];
      label[g] = wins ? Ints{} + published[c] : label[g];
      if (Keep) std::memcpy(values + (c * kGroup + g) * kLanes, &v, sizeof v);
    }
  }
}

// As look_at_highest() with a least confidence, or where the confidence is wanted.
inline __attribute__((always_inline)) void look(const Job& job, const Columns& columns, const Rows& rows, float weight,
                                                const int* places, const int32_t* published, float* values,
                                                uint8_t* labels, uint8_t* confidences) {
  const float least = (job.least - 0.5f) / 255.0f, factor = job.sharpness * kBits;
  Floats best[kGroup], sum[kGroup], members[kGroup];
  Ints label[kGroup];
  find_highest<true>(job.classes, columns, rows, weight, places, published, best, label, values);
  for (int g = 0; g < kGroup; ++g) {
    sum[g] = Floats{};
    members[g] = Floats{} + (job.merges ? 0.0f : 1.0f);
  }
  const bool bounds = !job.probabilities && !confidences;  // may decide
  for (int c = 0; bounds && c < job.classes; ++c) {
    for (int g = 0; g < kGroup; ++g) {
      const Floats e = over_exps(load<Floats>(values + (c * kGroup + g) * kLanes), best[g], factor);
      sum[g] += e;
      if (job.merges) members[g] += label[g] == published[c] ? e : Floats{};
    }
  }
  for (int g = 0; g < kGroup; ++g) {
    const float* of = values + g * kLanes;
    Lanes lanes;
    std::memcpy(lanes.label, &label[g], sizeof label[g]);
    std::memcpy(lanes.sum, &sum[g], sizeof sum[g]);
    std::memcpy(lanes.members, &members[g], sizeof members[g]);
    int32_t kept[kLanes];
    if (!bounds || !decided(lanes, least, kept)) {
      const Floats confidence = exact(job, of, best[g], label[g], published);
      std::memcpy(lanes.sum, &confidence, sizeof confidence);
      int32_t sure[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        sure[i] = static_cast<int32_t>(lanes.sum[i]);
        kept[i] = sure[i] >= job.least ? lanes.label[i] : kIgnore;
        sure[i] = kept[i] == kIgnore ? 0 : sure[i];
      }
      if (confidences) put(sure, places[g], job.W, confidences);
    }
    put(kept, places[g], job.W, labels);
  }
}

}  // namespace

STREAMSEG_CLONES
void look_at_highest(const Job& job, const Columns& columns, const Rows& rows, float weight, const int* places,
                     const int32_t* published, uint8_t* labels) {
  Floats best[kGroup];
  Ints label[kGroup];
  find_highest<false>(job.classes, columns, rows, weight, places, published, best, label, nullptr);
  for (int g = 0; g < kGroup; ++g) {
    int32_t found[kLanes];
    std::memcpy(found, &label[g], sizeof found);
    put(found, places[g], job.W, labels);
  }
}

STREAMSEG_CLONES
void look_at(const Job& job, const Columns& columns, const Rows& rows, float weight, const int* places,
             const int32_t* published, float* values, uint8_t* labels) {
  look(job, columns, rows, weight, places, published, values, labels, nullptr);
}

STREAMSEG_CLONES
void look_at_confidence(const Job& job, const Columns& columns, const Rows& rows, float weight, const int* places,
                        const int32_t* published, float* values, uint8_t* labels, uint8_t* confidences) {
  look(job, columns, rows, weight, places, published, values, labels, confidences);
}

}  // namespace upsample
