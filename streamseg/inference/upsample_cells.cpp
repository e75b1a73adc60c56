// Labels, and the confidence where it is wanted, a cell of the logits at a time.
//
// In a cell, between four of the logits, each class is interpolated by the same weights. So a class that is the highest
// in all four corners is the highest in the whole cell. And the logarithm of a softmax is concave in the logits: nowhere
// in the cell is the class less probable than in its least probable corner. Where that is above the least confidence,
// or rounds to the highest one where the confidence is wanted, the cell is filled. Those are most of a picture; the
// pixels of the others are computed.
#include "upsample.h"

namespace upsample {
namespace {

// No less than exp, and 6.2 % more at most, of values that were multiplied by kBits and shifted by kOne: between powers
// of two 2^t is below a straight line. 1 is exact.
constexpr float kBits = 1.44269504f * 8388608.0f, kOne = 127.0f * 8388608.0f, kMore = 1.0615f;

// A row of the logits: of each the class with the highest value, and how clear that is.
struct Nodes {
  Buffer<int32_t> arg, sure;
  Buffer<float> best, clear, large, sum;  // clear: from the second best; large: the largest absolute value

  explicit Nodes(int w) : arg(w), sure(w), best(w), clear(w), large(w), sum(w) {}
};

STREAMSEG_CLONES
void rank(const float* __restrict v, int n, int32_t c, float* __restrict best, float* __restrict second,
          float* __restrict large, int32_t* __restrict arg) {
  for (int x = 0; x < n; ++x) {
    const bool wins = v[x] > best[x];
    second[x] = std::max(second[x], std::min(v[x], best[x]));
    best[x] = wins ? v[x] : best[x];
    arg[x] = wins ? c : arg[x];
    const float size = std::fabs(v[x]);
    large[x] = size > large[x] || size != size ? size : large[x];  // NaN stays
  }
}

STREAMSEG_CLONES
void add_over_exp(const float* __restrict v, const float* __restrict best, float factor, int n,
                  float* __restrict sum) {
  for (int x = 0; x < n; ++x) {
    const int32_t bits = static_cast<int32_t>(std::max(0.0f, (v[x] - best[x]) * factor + kOne));
    float e;
    std::memcpy(&e, &bits, sizeof e);
    sum[x] += e;
  }
}

// least: as a probability, or as its inverse for a sum. Returns whether all values can be interpolated.
STREAMSEG_CLONES
bool judge(int n, const float* __restrict best, const float* __restrict large, const float* __restrict sum,
           bool probabilities, float least, float* __restrict clear, int32_t* __restrict sure) {
  int32_t largest = 0;
  for (int x = 0; x < n; ++x) {
    int32_t bits;
    std::memcpy(&bits, large + x, sizeof bits);
    largest = std::max(largest, bits);
    clear[x] = best[x] - clear[x];
    sure[x] = probabilities ? best[x] >= least : sum[x] * least <= 1.0f;
  }
  return largest <= 0x7cf0bdc2;  // as in blend_rows()
}

bool look_at_nodes(const Job& job, int r, float least, Nodes& to) {
  const int w = job.w;
  const size_t plane = static_cast<size_t>(job.h) * w;
  const float* row = job.logits + static_cast<size_t>(r) * w;
  std::fill(to.arg.begin(), to.arg.end(), 0);
  std::fill(to.best.begin(), to.best.end(), -INFINITY);
  std::fill(to.clear.begin(), to.clear.end(), -INFINITY);
  std::fill(to.large.begin(), to.large.end(), 0.0f);
  for (int c = 0; c < job.classes; ++c)
    rank(row + plane * c, w, c, to.best.data(), to.clear.data(), to.large.data(), to.arg.data());
  std::fill(to.sum.begin(), to.sum.end(), 0.0f);
  for (int c = 0; least > 0.0f && !job.probabilities && c < job.classes; ++c)
    add_over_exp(row + plane * c, to.best.data(), job.sharpness * kBits, w, to.sum.data());
  return judge(w, to.best.data(), to.large.data(), to.sum.data(), job.probabilities, least, to.clear.data(),
               to.sure.data());
}

// What each cell between two rows is filled with; -1 where its pixels are looked at. The highest class of all corners
// must be clearly so: what is interpolated is rounded, at values as large as `large` to a millionth of them, and near
// the smallest numbers that have all their digits to no less than those.
STREAMSEG_CLONES
void fill_cells(const Nodes& above, const Nodes& below, int n, int right, const int32_t* published,
                int32_t* __restrict to) {
  const int32_t *a = above.arg.data(), *b = below.arg.data(), *as = above.sure.data(), *bs = below.sure.data();
  const float *ac = above.clear.data(), *bc = below.clear.data(), *al = above.large.data(), *bl = below.large.data();
  for (int x = 0; x < n; ++x) {
    const int r = x + right;
    const bool same = (a[x] == a[r]) & (a[x] == b[x]) & (a[x] == b[r]);
    const float clear = std::min(std::min(ac[x], ac[r]), std::min(bc[x], bc[r]));
    const float large = std::max(std::max(al[x], al[r]), std::max(bl[x], bl[r]));
    const int32_t label = published[a[x]];
    const bool sure = ((as[x] & as[r] & bs[x] & bs[r]) != 0) | (label == kIgnore);
    to[x] = same & (clear > 1e-5f * large + 1e-36f) & sure ? label : -1;
  }
}

// As exp_below_zero() has them. One by one, of which the compiler makes better vectors than of comparisons of vectors.
inline __attribute__((always_inline)) Floats exps(Floats v) {
  float of[kLanes];
  std::memcpy(of, &v, sizeof v);
  for (int i = 0; i < kLanes; ++i) of[i] = exp_below_zero(of[i]);
  return load<Floats>(of);
}

// Two rows of every class, as their first values and how far apart classes are; kLanes values can be read from each.
struct Rows {
  const float *above, *below;
  size_t apart;
};

constexpr int kGroup = 4;

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

// The pixels of kGroup vectors of an output row, from any column on, where any confidence will do: as by_rows() has
// them. So many at once, since the steps of one wait for each other.
STREAMSEG_CLONES
void look_at_highest(const Job& job, const Columns& columns, const Rows& rows, float weight, const int* places,
                     const int32_t* published, uint8_t* labels) {
  const int classes = job.classes;
  const size_t apart = rows.apart;
  const float *above[kGroup], *below[kGroup];
  Floats best[kGroup], across[kGroup];
  Ints label[kGroup], at[kGroup];
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
    }
  }
  for (int g = 0; g < kGroup; ++g) {
    int32_t found[kLanes];
    std::memcpy(found, &label[g], sizeof found);
    put(found, places[g], job.W, labels);
  }
}

// The same with a least confidence, or where the confidence is wanted.
inline __attribute__((always_inline)) void look(const Job& job, const Columns& columns, const Rows& rows, float weight,
                                                const int* places, const int32_t* published, float* values,
                                                uint8_t* labels, uint8_t* confidences) {
  const int classes = job.classes;
  const size_t apart = rows.apart;
  const float least = (job.least - 0.5f) / 255.0f, factor = job.sharpness * kBits;
  const float *above[kGroup], *below[kGroup];
  Floats best[kGroup], sum[kGroup], members[kGroup], across[kGroup];
  Ints label[kGroup], at[kGroup];
  for (int g = 0; g < kGroup; ++g) {
    const int first = columns.first[places[g]];
    at[g] = load<Ints>(columns.first.data() + places[g]) - first;
    across[g] = load<Floats>(columns.weight.data() + places[g]);
    above[g] = rows.above + first;
    below[g] = rows.below + first;
    best[g] = Floats{} - INFINITY;
    sum[g] = Floats{};
    members[g] = Floats{} + (job.merges ? 0.0f : 1.0f);
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
      std::memcpy(values + (c * kGroup + g) * kLanes, &v, sizeof v);
    }
  }
  const bool bounds = !job.probabilities && !confidences;  // may decide
  for (int c = 0; bounds && c < classes; ++c) {
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

}  // namespace

int by_cells(const Job& job, const Columns& columns) {
  const int w = job.w, W = job.W;
  const size_t plane = static_cast<size_t>(job.h) * w;
  Buffer<int32_t> published(job.classes), first_y, cells(w);
  for (int c = 0; c < job.classes; ++c) published[c] = label_of(job, c);
  Buffer<float> weight_y;
  make_taps(job.h, job.H, first_y, weight_y);
  std::vector<int> begins(w + 1, W);  // of each cell's pixels
  for (int x = W - 1; x >= 0; --x) begins[columns.first[x]] = x;
  for (int c = w - 1; c >= 0; --c) begins[c] = std::min(begins[c], begins[c + 1]);
  Nodes above(w), below(w);
  Buffer<uint8_t> fill(W), fill_confidence(job.confidence ? W : 0);
  std::vector<int> places;
  const size_t padded = static_cast<size_t>(w) + kLanes;
  Buffer<float> copied;
  Buffer<float> values(static_cast<size_t>(kLanes) * kGroup * job.classes);
  // No confidence matters beyond: it is high enough, or the highest.
  const int enough = job.confidence ? 255 : job.least;
  const float least = enough ? (enough - 0.5f) / 255.0f * 1.0001f : 0.0f;
  bool loose = true;  // a vector may begin at any column
  for (int x = 0; x + kLanes <= columns.n; ++x)
    loose = loose && columns.first[x + kLanes - 1] - columns.first[x] + 1 < kLanes;
  bool numbers = true;
  int at = -1;  // row of the logits that `above` has
  Rows rows = {};
  for (int y = 0; y < job.H; ++y) {
    const int r = first_y[y], next = std::min(r + 1, job.h - 1);
    if (r != at) {
      if (at >= 0 && r == at + 1)
        std::swap(above, below);
      else
        numbers = look_at_nodes(job, r, least, above);
      numbers = look_at_nodes(job, next, least, below) && numbers;
      if (!numbers) return 3;
      at = r;
      fill_cells(above, below, std::max(w - 1, 1), w > 1, published.data(), cells.data());
      places.clear();
      for (int c = 0; c < w;) {
        const int from = c;
        while (c < w && cells[c] == cells[from]) ++c;
        const int x = begins[from], end = begins[c];
        if (x == end) continue;
        if (cells[from] >= 0) {
          std::memset(fill.data() + x, cells[from], end - x);
          if (job.confidence) std::memset(fill_confidence.data() + x, cells[from] == kIgnore ? 0 : 255, end - x);
          continue;
        }
        int place = loose ? x : x / kLanes * kLanes;
        if (!places.empty()) place = std::max(place, places.back() + kLanes);
        for (; place < end; place += kLanes) places.push_back(std::min(place, columns.n - kLanes));
      }
      while (places.size() % kGroup) places.push_back(places.back());
      // Behind the last rows of the last class there is nothing to read; a single column has no right neighbour.
      rows = {job.logits + static_cast<size_t>(r) * w, job.logits + static_cast<size_t>(next) * w, plane};
      if (w == 1 || static_cast<size_t>(next + 1) * w + kLanes > plane) {
        copied.assign(padded * 2 * job.classes, 0.0f);
        for (int c = 0; c < job.classes; ++c) {
          float* to = copied.data() + padded * 2 * c;
          for (const float* from : {rows.above, rows.below}) {
            std::memcpy(to, from + plane * c, sizeof(float) * w);
            to[w] = to[w - 1];
            to += padded;
          }
        }
        rows = {copied.data(), copied.data() + padded, 2 * padded};
      }
    }
    uint8_t* labels = job.labels + static_cast<size_t>(y) * W;
    uint8_t* confidence = job.confidence ? job.confidence + static_cast<size_t>(y) * W : nullptr;
    std::memcpy(labels, fill.data(), W);
    if (confidence) std::memcpy(confidence, fill_confidence.data(), W);
    for (size_t i = 0; i < places.size(); i += kGroup) {
      const int* group = places.data() + i;
      if (confidence)
        look_at_confidence(job, columns, rows, weight_y[y], group, published.data(), values.data(), labels, confidence);
      else if (job.least)
        look_at(job, columns, rows, weight_y[y], group, published.data(), values.data(), labels);
      else
        look_at_highest(job, columns, rows, weight_y[y], group, published.data(), labels);
    }
  }
  return 0;
}

}  // namespace upsample
