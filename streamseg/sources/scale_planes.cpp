// A decoder's planes to RGB (or luma) of another size, an output row at a time: the rows that it needs are added up
// by their weights, then the columns, then its colours are converted. Each byte of a plane is read about once, and
// what is between stays in the first-level cache. Integers up to the colours, which are float without contraction:
// the same bytes on every machine, and those of the array fallback in planes.py.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

// On x86-64 the compiler makes one version for each instruction set and picks at load time.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
#define STREAMSEG_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define STREAMSEG_CLONES
#endif

extern "C" {

// How the samples of one axis make those of the output: output i is the sum of weight[i * count + k] times sample
// first[i] + k. The weights of a row add up to 256, those of a column to 16384 and their count is 4 or a multiple of 8.
struct Taps {
  const int32_t* first;
  const int16_t* weight;
  int32_t count;
};

// Samples of `channels` components side by side; `bits` that count, of a sample of one or two bytes.
struct Plane {
  const uint8_t* data;
  int64_t line_size;  // bytes from a row to the next
  int32_t rows, columns, channels, bytes, bits;
  Taps down, across;
};

}  // extern "C"

namespace {

constexpr int kMost = 3;  // components; alpha is left out

// Two rows at once, each with its weight, added to what is there or to nothing.
STREAMSEG_CLONES
void add_bytes(const uint8_t* __restrict one, uint16_t by, const uint8_t* __restrict two, uint16_t by_two, bool first,
               int n, uint16_t* __restrict sum) {
  if (first)
    for (int x = 0; x < n; ++x) sum[x] = static_cast<uint16_t>(by * one[x] + by_two * two[x]);
  else
    for (int x = 0; x < n; ++x) sum[x] = static_cast<uint16_t>(sum[x] + by * one[x] + by_two * two[x]);
}

STREAMSEG_CLONES
void add_words(const uint16_t* __restrict one, uint32_t by, const uint16_t* __restrict two, uint32_t by_two,
               bool first, int n, uint32_t* __restrict sum) {
  if (first)
    for (int x = 0; x < n; ++x) sum[x] = by * one[x] + by_two * two[x];
  else
    for (int x = 0; x < n; ++x) sum[x] += by * one[x] + by_two * two[x];
}

template <class T>
inline __attribute__((always_inline)) void part(const T* __restrict sum, int shift, int n, int channels,
                                                int16_t* __restrict out, int stride) {
  if (channels == 1) {
    for (int x = 0; x < n; ++x) out[x] = static_cast<int16_t>(sum[x] >> shift);
  } else if (channels == 2) {
    int16_t* __restrict second = out + stride;
    for (int x = 0; x < n; ++x) {
      out[x] = static_cast<int16_t>(sum[2 * x] >> shift);
      second[x] = static_cast<int16_t>(sum[2 * x + 1] >> shift);
    }
  } else {
    for (int c = 0; c < std::min(channels, kMost); ++c)
      for (int x = 0; x < n; ++x) out[c * stride + x] = static_cast<int16_t>(sum[channels * x + c] >> shift);
  }
}

STREAMSEG_CLONES
void part_bytes(const uint16_t* sum, int n, int channels, int16_t* out, int stride) {
  part(sum, 1, n, channels, out, stride);
}

STREAMSEG_CLONES
void part_words(const uint32_t* sum, int shift, int n, int channels, int16_t* out, int stride) {
  part(sum, shift, n, channels, out, stride);
}

inline int32_t dot(const int16_t* of, const int16_t* weight, int count) {
  int32_t sum = 0;
  for (int k = 0; k < count; ++k) sum += of[k] * weight[k];
  return sum;
}

#if defined(__SSE2__)
inline __attribute__((always_inline)) __m128i at(const void* from) {
  return _mm_loadu_si128(static_cast<const __m128i*>(from));
}

inline __attribute__((always_inline)) __m128i dots(const int16_t* of, const int16_t* weight, int count) {
  __m128i sum = _mm_madd_epi16(at(of), at(weight));
  for (int k = 8; k < count; k += 8) sum = _mm_add_epi32(sum, _mm_madd_epi16(at(of + k), at(weight + k)));
  return sum;
}

// Four outputs of four taps each.
inline __attribute__((always_inline)) __m128i dots_of_four(const int16_t* row, const int32_t* first,
                                                           const int16_t* weight) {
  const auto pair = [&](int i) {
    const auto four = [&](int k) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + first[k])); };
    return _mm_madd_epi16(_mm_unpacklo_epi64(four(i), four(i + 1)), at(weight + 4 * i));
  };
  const __m128 ab = _mm_castsi128_ps(pair(0)), cd = _mm_castsi128_ps(pair(2));
  return _mm_add_epi32(_mm_castps_si128(_mm_shuffle_ps(ab, cd, 0x88)), _mm_castps_si128(_mm_shuffle_ps(ab, cd, 0xdd)));
}

inline __attribute__((always_inline)) __m128i dots_of(const int16_t* row, const int32_t* first, const int16_t* weight,
                                                      int count) {
  const __m128i a = dots(row + first[0], weight, count), b = dots(row + first[1], weight + count, count);
  const __m128i c = dots(row + first[2], weight + 2 * count, count);
  const __m128i d = dots(row + first[3], weight + 3 * count, count);
  const __m128i ab = _mm_add_epi32(_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
  const __m128i cd = _mm_add_epi32(_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
  return _mm_add_epi32(_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd));
}
#endif

// One component's row at the output's width, in the same units of 15 bits.
template <int Count>
inline __attribute__((always_inline)) void add_columns(const int16_t* row, const Taps& across, int n,
                                                       float* __restrict out) {
  const int count = Count ? Count : across.count;
  const int16_t* weight = across.weight;
  const int32_t* first = across.first;
  constexpr float kUnit = 1.0f / 16384;
  int x = 0;
#if defined(__SSE2__)
  for (; x + 4 <= n; x += 4) {
    const int16_t* by = weight + static_cast<size_t>(x) * count;
    const __m128i all = Count == 4 ? dots_of_four(row, first + x, by) : dots_of(row, first + x, by, count);
    _mm_storeu_ps(out + x, _mm_mul_ps(_mm_cvtepi32_ps(all), _mm_set1_ps(kUnit)));
  }
#endif
  for (; x < n; ++x)
    out[x] = static_cast<float>(dot(row + first[x], weight + static_cast<size_t>(x) * count, count)) * kUnit;
}

STREAMSEG_CLONES
void across_row(const int16_t* row, const Taps& across, int n, float* out) {
  if (across.count == 4)
    add_columns<4>(row, across, n, out);
  else if (across.count == 8)
    add_columns<8>(row, across, n, out);
  else
    add_columns<0>(row, across, n, out);
}

// One colour of a row: offset + sum of matrix[c] * component c, rounded to the nearest level.
STREAMSEG_CLONES
void mix(const float* __restrict of, int stride, int components, const float* matrix, float offset, int n,
         uint8_t* __restrict out) {
  const float zero = 0.0f, one = matrix[0], two = components > 1 ? matrix[1] : zero;
  const float three = components > 2 ? matrix[2] : zero;
  const float* __restrict second = of + (components > 1 ? stride : 0);
  const float* __restrict third = of + (components > 2 ? 2 * stride : 0);
  for (int x = 0; x < n; ++x) {
    const float v = offset + one * of[x] + two * second[x] + three * third[x];
    out[x] = static_cast<uint8_t>(static_cast<int32_t>(std::min(std::max(v, 0.0f), 255.0f) + 0.5f));
  }
}

STREAMSEG_CLONES
void interleave(const uint8_t* __restrict red, const uint8_t* __restrict green, const uint8_t* __restrict blue, int n,
                uint8_t* __restrict out) {
  for (int x = 0; x < n; ++x) {
    out[3 * x] = red[x];
    out[3 * x + 1] = green[x];
    out[3 * x + 2] = blue[x];
  }
}

}  // namespace

extern "C" {

// planes: their first 3 components are used. matrix: (colours, 3) float32, of the components in units of 15 bits;
// offset: (colours,). out: (height, width, colours) uint8, colours 1 or 3.
// Returns 0, or 2 when memory is short.
__attribute__((visibility("default"))) int streamseg_scale_planes(const Plane* planes, int count, int height,
                                                                  int width, int colours, const float* matrix,
                                                                  const float* offset, uint8_t* out) {
  try {
    int most = 0, taps = 0;
    for (int i = 0; i < count; ++i) {
      most = std::max(most, planes[i].columns * planes[i].channels);
      taps = std::max(taps, planes[i].across.count);
    }
    const int stride = most + taps;  // taps of weight 0 are read behind a row's end
    std::vector<uint16_t> bytes(most);
    std::vector<uint32_t> words(most);
    std::vector<int16_t> narrow(static_cast<size_t>(stride) * kMost);
    std::vector<float> levels(static_cast<size_t>(width) * kMost);
    std::vector<uint8_t> mixed(static_cast<size_t>(width) * 3);
    for (int y = 0; y < height; ++y) {
      int component = 0;
      for (int i = 0; i < count; ++i) {
        const Plane& plane = planes[i];
        const int n = plane.columns * plane.channels;
        const int16_t* weight = plane.down.weight + static_cast<size_t>(y) * plane.down.count;
        const uint8_t* top = plane.data + plane.line_size * plane.down.first[y];
        for (int k = 0; k < plane.down.count; k += 2) {
          const int next = k + 1 < plane.down.count && weight[k + 1] ? k + 1 : k;  // no row behind the last one is read
          const int by = weight[k], by_two = next == k ? 0 : weight[next];
          const uint8_t *one = top + plane.line_size * (by ? k : 0), *two = top + plane.line_size * (by_two ? next : 0);
          if (k && !by && !by_two) continue;
          if (plane.bytes == 1)
            add_bytes(one, static_cast<uint16_t>(by), two, static_cast<uint16_t>(by_two), k == 0, n, bytes.data());
          else
            add_words(reinterpret_cast<const uint16_t*>(one), static_cast<uint32_t>(by),
                      reinterpret_cast<const uint16_t*>(two), static_cast<uint32_t>(by_two), k == 0, n, words.data());
        }
        if (plane.bytes == 1)
          part_bytes(bytes.data(), plane.columns, plane.channels, narrow.data(), stride);
        else
          part_words(words.data(), plane.bits - 7, plane.columns, plane.channels, narrow.data(), stride);
        for (int c = 0; c < plane.channels && component < kMost; ++c, ++component)
          across_row(narrow.data() + static_cast<size_t>(c) * stride, plane.across, width,
                     levels.data() + static_cast<size_t>(component) * width);
      }
      uint8_t* to = out + static_cast<size_t>(y) * width * colours;
      for (int c = 0; c < colours; ++c)
        mix(levels.data(), width, component, matrix + 3 * c, offset[c], width, colours == 1 ? to : mixed.data() + c * width);
      if (colours == 3) interleave(mixed.data(), mixed.data() + width, mixed.data() + 2 * width, width, to);
    }
    return 0;
  } catch (const std::bad_alloc&) {
    return 2;
  }
}

}  // extern "C"
