// What the passes over logits share: taps of bilinear scaling, vectors of one width, exp.
#pragma once

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

namespace upsample {

constexpr int kLanes = 16;
constexpr int kIgnore = 255;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

// Buffers begin at a cache line. Elsewhere every other access to a whole vector touches two lines, by chance of what
// was allocated before.
template <class T>
struct AtLine {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};

  AtLine() = default;
  template <class U>
  AtLine(const AtLine<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kLine)); }
  void deallocate(T* of, size_t) { ::operator delete(of, kLine); }
  template <class U>
  bool operator==(const AtLine<U>&) const { return true; }
  template <class U>
  bool operator!=(const AtLine<U>&) const { return false; }
};

template <class T>
using Buffer = std::vector<T, AtLine<T>>;

template <class V>
inline __attribute__((always_inline)) V load(const void* from) {
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

// Pixel centres line up: source = (x + 0.5) * from / to - 0.5, clamped to the picture.
inline void make_taps(int from, int to, Buffer<int32_t>& first, Buffer<float>& weight) {
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

// How the columns of an output row read the columns of the logits, for kLanes columns at a time.
struct Columns {
  int n = 0;                 // padded to whole vectors
  bool close = kCanShuffle;  // each vector's sources fit into one vector: shuffle instead of gather
  Buffer<int32_t> first;     // left neighbour
  Buffer<int32_t> lane;      // left neighbour, counted from that of the vector's first column
  Buffer<float> weight;      // of the right neighbour

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

// exp for arguments at or below 0, to 2e-6 relative: 2^k times a polynomial on the fraction.
inline __attribute__((always_inline)) float exp_below_zero(float v) {
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

// A probability in 1/255, to the nearest: what the confidence is and what is compared with its least value.
inline __attribute__((always_inline)) uint8_t confidence_of(float probability) {
  return static_cast<uint8_t>(255.0f * std::min(std::max(probability, 0.0f), 1.0f) + 0.5f);
}

// Logits and what is made of them.
struct Job {
  const float* logits;  // (classes, h, w)
  int classes, h, w;
  int H, W;
  uint8_t* labels;        // (H, W)
  uint8_t* confidence;    // (H, W) or null
  bool probabilities;     // the logits have passed softmax already
  float sharpness;        // what logits are multiplied by for the confidence
  const uint8_t* table;   // (256,) or null: the published class of each
  bool merges;            // classes share an entry of the table
  int least;              // of the confidence, for a label to be kept; 0: any
};

// The class that a pixel of class c is published as.
inline int32_t label_of(const Job& job, int c) { return job.table ? job.table[c] : c; }

constexpr int kGroup = 4;  // vectors of pixels that are computed at once, since the steps of one wait for each other

// No less than exp, and 6.2 % more at most, of values that were multiplied by kBits and shifted by kOne: between powers
// of two 2^t is below a straight line. 1 is exact.
constexpr float kBits = 1.44269504f * 8388608.0f, kOne = 127.0f * 8388608.0f, kMore = 1.0615f;

// Two rows of every class, as their first values and how far apart classes are; kLanes values can be read from each.
struct Rows {
  const float *above, *below;
  size_t apart;
};

// The pixels of kGroup vectors of an output row, from any column on, as by_rows() has them: where any confidence will do,
// with a least one, and where the confidence is wanted.
void look_at_highest(const Job& job, const Columns& columns, const Rows& rows, float weight, const int* places,
                     const int32_t* published, uint8_t* labels);
void look_at(const Job& job, const Columns& columns, const Rows& rows, float weight, const int* places,
             const int32_t* published, float* values, uint8_t* labels);
void look_at_confidence(const Job& job, const Columns& columns, const Rows& rows, float weight, const int* places,
                        const int32_t* published, float* values, uint8_t* labels, uint8_t* confidences);

// The same as by_rows(), where Columns::close. Cells of the logits in whose corners the same class is the highest, and
// sure enough, are filled; pixels of the others are computed. Returns as streamseg_upsample_argmax.
int by_cells(const Job& job, const Columns& columns);

}  // namespace upsample
