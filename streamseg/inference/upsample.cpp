// Bilinear upsampling of logits and their argmax in one pass, a row at a time: what is interpolated stays in the
// first-level cache, and no full-resolution float tensor is ever written.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

// On x86-64 the compiler makes one version for each instruction set and picks at load time.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
#define STREAMSEG_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define STREAMSEG_CLONES
#endif

namespace {

// Pixel centres line up: source = (x + 0.5) * from / to - 0.5, clamped to the picture.
void make_taps(int from, int to, std::vector<int32_t>& first, std::vector<float>& weight) {
  first.resize(to);
  weight.resize(to);
  const double step = static_cast<double>(from) / to;
  for (int x = 0; x < to; ++x) {
    const double at = std::clamp((x + 0.5) * step - 0.5, 0.0, static_cast<double>(from - 1));
    const int left = std::min(static_cast<int>(at), std::max(from - 2, 0));
    first[x] = left;
    weight[x] = static_cast<float>(at - left);
  }
}

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

constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

template <class V>
inline V load(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

#if defined(__clang__)
constexpr bool kCanShuffle = false;
inline Floats shuffle(Floats source, Ints) { return source; }
#else
constexpr bool kCanShuffle = true;
inline __attribute__((always_inline)) Floats shuffle(Floats source, Ints at) { return __builtin_shuffle(source, at); }
#endif

// How the columns of an output row read the columns of the logits, for kLanes columns at a time.
struct Columns {
  int n = 0;                  // padded to whole vectors
  bool close = kCanShuffle;         // each vector's sources fit into one vector: shuffle instead of gather
  std::vector<int32_t> first; // left neighbour
  std::vector<int32_t> lane;  // left neighbour, counted from that of the vector's first column
  std::vector<float> weight;  // of the right neighbour

  Columns(int from, int to) : n((to + kLanes - 1) / kLanes * kLanes) {
    make_taps(from, to, first, weight);
    first.resize(n, first.back());
    weight.resize(n, 0.0f);
    lane.resize(n);
    for (int x = 0; x < n; ++x) {
      lane[x] = first[x] - first[x / kLanes * kLanes];
      close = close && lane[x] + 1 < kLanes;
    }
  }
};

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

// exp for arguments at or below 0, to 2e-6 relative: 2^k times a polynomial on the fraction.
inline float exp_below_zero(float v) {
  const float t = std::max(v, -87.0f) * 1.44269504f;
  const float k = std::floor(t);
  const float f = t - k;
  const float p =
      1.0f + f * (0.693147180f + f * (0.240226507f + f * (0.0555041087f + f * (0.00961812911f + f * 0.00133335581f))));
  const int32_t bits = (static_cast<int32_t>(k) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

STREAMSEG_CLONES
void add_exp(const float* __restrict v, const float* __restrict best, float sharpness, int n, float* __restrict sum) {
  for (int x = 0; x < n; ++x) sum[x] += exp_below_zero((v[x] - best[x]) * sharpness);
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
void probability_to_confidence(const float* __restrict best, int n, uint8_t* __restrict confidence) {
  for (int x = 0; x < n; ++x)
    confidence[x] = static_cast<uint8_t>(255.0f * std::min(std::max(best[x], 0.0f), 1.0f) + 0.5f);
}

}  // namespace

extern "C" {

// logits: (classes, h, w) float32. labels: (H, W) uint8. confidence: (H, W) uint8 or null. probabilities: not 0 where
// the logits have passed softmax already. sharpness: what logits are multiplied by for the confidence.
// Returns 0, 1 for impossible sizes, 2 when memory is short, 3 for logits that are not all numbers.
__attribute__((visibility("default"))) int streamseg_upsample_argmax(const float* logits, int classes, int h, int w,
                                                                     int H, int W, uint8_t* labels,
                                                                     uint8_t* confidence, int probabilities,
                                                                     float sharpness) {
  if (classes < 1 || classes > 256 || h < 1 || w < 1 || H < 1 || W < 1) return 1;
  const bool softmax = confidence && !probabilities;
  try {
    const Columns columns(w, W);
    const int n = columns.n;
    std::vector<int32_t> first_y, arg(n);
    std::vector<float> weight_y, best(n), sum(softmax ? n : 0);
    std::vector<float> row(static_cast<size_t>(w) + kLanes), values(static_cast<size_t>(softmax ? classes : 1) * n);
    make_taps(h, H, first_y, weight_y);
    const size_t plane = static_cast<size_t>(h) * w;
    for (int y = 0; y < H; ++y) {
      std::fill(best.begin(), best.end(), -INFINITY);
      std::fill(arg.begin(), arg.end(), 0);
      const size_t above = static_cast<size_t>(first_y[y]) * w;
      const size_t below = h > 1 ? above + w : above;
      for (int c = 0; c < classes; ++c) {
        const float* of = logits + plane * c;
        float* v = values.data() + (softmax ? static_cast<size_t>(c) * n : 0);
        if (!blend_rows(of + above, of + below, weight_y[y], w, row.data())) return 3;
        row[w] = row[w - 1];
        if (columns.close)
          spread_close(row.data(), columns.first.data(), columns.lane.data(), columns.weight.data(), n, v);
        else
          spread_far(row.data(), columns.first.data(), columns.weight.data(), n, v);
        keep_best(v, n, c, best.data(), arg.data());
      }
      narrow(arg.data(), W, labels + static_cast<size_t>(y) * W);
      if (confidence && probabilities) {
        probability_to_confidence(best.data(), W, confidence + static_cast<size_t>(y) * W);
      } else if (confidence) {
        std::fill(sum.begin(), sum.end(), 0.0f);
        for (int c = 0; c < classes; ++c)
          add_exp(values.data() + static_cast<size_t>(c) * n, best.data(), sharpness, n, sum.data());
        to_confidence(sum.data(), W, confidence + static_cast<size_t>(y) * W);
      }
    }
  } catch (const std::bad_alloc&) {
    return 2;
  }
  return 0;
}

}  // extern "C"
