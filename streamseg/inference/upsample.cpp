// Bilinear upsampling of logits and their argmax in one pass, a row at a time: what is interpolated stays in the
// first-level cache, and no full-resolution float tensor is ever written.
#include "upsample.h"

namespace {

using namespace upsample;

// Blend two rows. Returns whether the result can be interpolated further: no NaN, nothing beyond 1e37; a NaN or an
// infinity of either row is in it at any weight. Seen on bits, which no compiler flag changes and where NaN is the
// largest, while the values are in registers: that costs nothing that can be measured.
STREAMSEG_CLONES
bool blend_rows(const float* above, const float* below, float weight, int n, float* __restrict out) {
  int32_t largest = 0;
  for (int x = 0; x < n; ++x) {
    const float v = above[x] + weight * (below[x] - above[x]);
    int32_t bits;
    std::memcpy(&bits, &v, sizeof bits);
    largest = std::max(largest, bits & 0x7fffffff);
    out[x] = v;
  }
  return largest <= 0x7cf0bdc2;
}

STREAMSEG_CLONES
void spread_close(const float* row, const int32_t* first, const int32_t* lane, const float* weight, int n,
                  float* out) {
  for (int x = 0; x < n; x += kLanes) {
    const Floats source = load<Floats>(row + first[x]);
    const Ints at = load<Ints>(lane + x);
    const Floats left = shuffle(source, at);
    const Floats right = shuffle(source, at + 1);
    const Floats v = left + load<Floats>(weight + x) * (right - left);
    std::memcpy(out + x, &v, sizeof v);
  }
}

STREAMSEG_CLONES
void spread_far(const float* __restrict row, const int32_t* __restrict first, const float* __restrict weight, int n,
                float* __restrict out) {
  for (int x = 0; x < n; ++x) {
    const float left = row[first[x]];
    out[x] = left + weight[x] * (row[first[x] + 1] - left);
  }
}

STREAMSEG_CLONES
void keep_best(const float* __restrict v, int n, int32_t label, float* __restrict best, int32_t* __restrict arg) {
  for (int x = 0; x < n; ++x) {
    const bool wins = v[x] > best[x];
    best[x] = wins ? v[x] : best[x];
    arg[x] = wins ? label : arg[x];
  }
}

STREAMSEG_CLONES
void add_exp(const float* __restrict v, const float* __restrict best, float sharpness, int n, float* __restrict sum) {
  for (int x = 0; x < n; ++x) sum[x] += exp_below_zero((v[x] - best[x]) * sharpness);
}

// The same, and of the members of the pixel's label apart.
STREAMSEG_CLONES
void add_exp_of(const float* __restrict v, const float* __restrict best, float sharpness, int n, int32_t label,
                const int32_t* __restrict arg, float* __restrict sum, float* __restrict members) {
  for (int x = 0; x < n; ++x) {
    const float e = exp_below_zero((v[x] - best[x]) * sharpness);
    sum[x] += e;
    members[x] += arg[x] == label ? e : 0.0f;
  }
}

STREAMSEG_CLONES
void add_of(const float* __restrict v, int n, int32_t label, const int32_t* __restrict arg,
            float* __restrict members) {
  for (int x = 0; x < n; ++x) members[x] += arg[x] == label ? v[x] : 0.0f;
}

STREAMSEG_CLONES
void narrow(const int32_t* __restrict arg, int n, uint8_t* __restrict labels) {
  for (int x = 0; x < n; ++x) labels[x] = static_cast<uint8_t>(arg[x]);
}

STREAMSEG_CLONES
void to_confidence(const float* __restrict sum, int n, uint8_t* __restrict confidence) {
  for (int x = 0; x < n; ++x) confidence[x] = static_cast<uint8_t>(255.0f / sum[x] + 0.5f);
}

STREAMSEG_CLONES
void share_to_confidence(const float* __restrict members, const float* __restrict sum, int n,
                         uint8_t* __restrict confidence) {
  for (int x = 0; x < n; ++x) confidence[x] = static_cast<uint8_t>(255.0f * members[x] / sum[x] + 0.5f);
}

STREAMSEG_CLONES
void probability_to_confidence(const float* __restrict best, int n, uint8_t* __restrict confidence) {
  for (int x = 0; x < n; ++x) confidence[x] = confidence_of(best[x]);
}

// No label below the least confidence, and no confidence without a label.
STREAMSEG_CLONES
void drop(int n, int least, uint8_t* __restrict labels, uint8_t* __restrict confidence) {
  for (int x = 0; x < n; ++x) {
    const uint8_t label = confidence[x] < least ? kIgnore : labels[x];
    labels[x] = label;
    confidence[x] = label == kIgnore ? 0 : confidence[x];
  }
}

// A row after the other, with the confidence where it is wanted or decides.
int by_rows(const Job& job, const Columns& columns) {
  const bool confident = job.confidence || job.least;
  const bool softmax = confident && !job.probabilities;
  const bool apart = confident && job.merges;
  const bool keep_all = softmax || apart;
  const int n = columns.n, w = job.w, W = job.W;
  Buffer<int32_t> first_y, arg(n);
  Buffer<float> weight_y, best(n), sum(softmax ? n : 0), members(apart ? n : 0);
  Buffer<float> row(static_cast<size_t>(w) + kLanes);
  Buffer<float> values(static_cast<size_t>(keep_all ? job.classes : 1) * n);
  Buffer<uint8_t> own(job.confidence ? 0 : n);
  make_taps(job.h, job.H, first_y, weight_y);
  const size_t plane = static_cast<size_t>(job.h) * w;
  for (int y = 0; y < job.H; ++y) {
    std::fill(best.begin(), best.end(), -INFINITY);
    std::fill(arg.begin(), arg.end(), label_of(job, 0));
    const size_t above = static_cast<size_t>(first_y[y]) * w;
    const size_t below = job.h > 1 ? above + w : above;
    for (int c = 0; c < job.classes; ++c) {
      const float* of = job.logits + plane * c;
      float* v = values.data() + (keep_all ? static_cast<size_t>(c) * n : 0);
      if (!blend_rows(of + above, of + below, weight_y[y], w, row.data())) return 3;
      row[w] = row[w - 1];
      if (columns.close)
        spread_close(row.data(), columns.first.data(), columns.lane.data(), columns.weight.data(), n, v);
      else
        spread_far(row.data(), columns.first.data(), columns.weight.data(), n, v);
      keep_best(v, n, label_of(job, c), best.data(), arg.data());
    }
    uint8_t* labels = job.labels + static_cast<size_t>(y) * W;
    narrow(arg.data(), W, labels);
    if (!confident) continue;
    uint8_t* confidence = job.confidence ? job.confidence + static_cast<size_t>(y) * W : own.data();
    std::fill(sum.begin(), sum.end(), 0.0f);
    std::fill(members.begin(), members.end(), 0.0f);
    for (int c = 0; keep_all && c < job.classes; ++c) {
      const float* v = values.data() + static_cast<size_t>(c) * n;
      if (!apart)
        add_exp(v, best.data(), job.sharpness, n, sum.data());
      else if (softmax)
        add_exp_of(v, best.data(), job.sharpness, n, label_of(job, c), arg.data(), sum.data(), members.data());
      else
        add_of(v, n, label_of(job, c), arg.data(), members.data());
    }
    if (!softmax)
      probability_to_confidence(apart ? members.data() : best.data(), W, confidence);
    else if (apart)
      share_to_confidence(members.data(), sum.data(), W, confidence);
    else
      to_confidence(sum.data(), W, confidence);
    if (job.table || job.least) drop(W, job.least, labels, confidence);
  }
  return 0;
}

}  // namespace

extern "C" {

// logits: (classes, h, w) float32. labels: (H, W) uint8. confidence: (H, W) uint8 or null. probabilities: not 0 where
// the logits have passed softmax already. sharpness: what logits are multiplied by for the confidence. table: (256,)
// uint8, the published class of each, or null for the same. merges: not 0 where classes share an entry of the table;
// their probabilities are added up. least: of the confidence, for a label to be kept; without it, and without an
// entry, a label is 255 and its confidence 0.
// Returns 0, 1 for impossible sizes, 2 when memory is short, 3 for logits that are not all numbers.
__attribute__((visibility("default"))) int streamseg_upsample_argmax(const float* logits, int classes, int h, int w,
                                                                     int H, int W, uint8_t* labels,
                                                                     uint8_t* confidence, int probabilities,
                                                                     float sharpness, const uint8_t* table, int merges,
                                                                     int least) {
  if (classes < 1 || classes > 256 || h < 1 || w < 1 || H < 1 || W < 1) return 1;
  const Job job = {logits, classes,     h,         w,     H,           W,    labels, confidence, probabilities != 0,
                   sharpness, table, merges != 0, least};
  try {
    const Columns columns(w, W);
    // With the confidence few enough cells are filled that narrow ones do not pay.
    const bool in_cells = columns.close && (!confidence || W >= 8 * w);
    return in_cells ? by_cells(job, columns) : by_rows(job, columns);
  } catch (const std::bad_alloc&) {
    return 2;
  }
}

}  // extern "C"
