// Counts the pixels of each class in each set of zones, in one pass over a mask.
// A plain C interface; streamseg/analytics/counting.py calls it, raster.py makes the spans.
//
// Masks are long runs of one label: 32 pixels are compared at once, and a run costs one addition.
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define SS_API extern "C" __attribute__((visibility("default")))

namespace {

#if defined(__SSE2__)
constexpr int kBlock = 32;
// A bit for each of 32 bytes that is another one.
inline uint32_t others(const uint8_t* at, uint8_t label) {
  const __m128i same = _mm_set1_epi8(static_cast<char>(label));
  const __m128i low = _mm_cmpeq_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)), same);
  const __m128i high = _mm_cmpeq_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 16)), same);
  return ~(static_cast<uint32_t>(_mm_movemask_epi8(low)) | static_cast<uint32_t>(_mm_movemask_epi8(high)) << 16);
}
inline int first(uint32_t others) { return __builtin_ctz(others); }
#else
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first byte of eight is the lowest");
constexpr int kBlock = 8;
inline uint64_t others(const uint8_t* at, uint8_t label) {
  uint64_t bytes;
  std::memcpy(&bytes, at, 8);
  return bytes ^ label * 0x0101010101010101ull;
}
inline int first(uint64_t others) { return __builtin_ctzll(others) >> 3; }
#endif

// The first x from `x` on, below `end`, whose label is another one; else end. No block is read that begins
// behind `whole`.
inline int32_t run_end(const uint8_t* row, int32_t x, int32_t end, uint8_t label, const uint8_t* whole) {
  if (x < end && row[x] != label) return x;
  for (; x < end && row + x <= whole; x += kBlock)
    if (const auto found = others(row + x, label)) {
      x += first(found);
      return x < end ? x : end;
    }
  while (x < end && row[x] == label) ++x;
  return x < end ? x : end;
}

// The sum of bytes. No 16 of them are read that begin behind `whole`.
inline uint64_t sum(const uint8_t* from, int32_t count, const uint8_t* whole) {
  uint64_t total = 0;
  int32_t i = 0;
#if defined(__SSE2__)
  alignas(16) static const uint8_t kept[32] = {255, 255, 255, 255, 255, 255, 255, 255,
                                               255, 255, 255, 255, 255, 255, 255, 255};
  const __m128i zero = _mm_setzero_si128();
  __m128i sums = zero;
  for (; i < count && from + i <= whole; i += 16) {
    __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    if (count - i < 16)
      bytes = _mm_and_si128(bytes, _mm_loadu_si128(reinterpret_cast<const __m128i*>(kept + 16 - (count - i))));
    sums = _mm_add_epi64(sums, _mm_sad_epu8(bytes, zero));
  }
  uint64_t halves[2];
  std::memcpy(halves, &sums, 16);
  total = halves[0] + halves[1];
#else
  (void)whole;
  for (; i + 65536 <= count; i += 65536) {
    uint32_t some = 0;
    for (int32_t k = i; k < i + 65536; ++k) some += from[k];
    total += some;
  }
#endif
  uint32_t rest = 0;
  for (; i < count; ++i) rest += from[i];
  return total + rest;
}

struct Place {
  double u, v;
};

inline Place on_ground(const double* m, double x, double y) {
  const double below = m[6] * x + m[7] * y + m[8];
  return {(m[0] * x + m[1] * y + m[2]) / below, (m[3] * x + m[4] * y + m[5]) / below};
}

inline double cross(Place a, Place b) { return a.u * b.v - b.u * a.v; }

}  // namespace

// first: (height + 1) first span of each row; ends, sets: of each span; pixels, sums: (sets, 256), added to.
// confidence and sums may be null.
SS_API void ss_count_zones(const uint8_t* labels, const uint8_t* confidence, int32_t height, int32_t width,
                           const int64_t* first, const int32_t* ends, const int32_t* sets, uint64_t* pixels,
                           uint64_t* sums) {
  const uint8_t* whole = labels + static_cast<int64_t>(height) * width - kBlock;
  const uint8_t* last = confidence == nullptr ? nullptr : confidence + static_cast<int64_t>(height) * width - 16;
  for (int32_t y = 0; y < height; ++y) {
    const uint8_t* row = labels + static_cast<int64_t>(y) * width;
    const uint8_t* sure = confidence == nullptr ? nullptr : confidence + static_cast<int64_t>(y) * width;
    int32_t x = 0;
    for (int64_t span = first[y]; span < first[y + 1]; ++span) {
      const int32_t end = ends[span];
      const int64_t table = static_cast<int64_t>(sets[span]) * 256;
      while (x < end) {
        const uint8_t label = row[x];
        const int32_t next = run_end(row, x + 1, end, label, whole);
        pixels[table + label] += static_cast<uint64_t>(next - x);
        if (sure != nullptr) sums[table + label] += sum(sure + x, next - x, last);
        x = next;
      }
    }
  }
}

// The area on the ground of each class's pixels in runs [begins, ends) of rows; areas: (256), added to.
SS_API void ss_count_ground(const uint8_t* labels, int32_t height, int32_t width, int64_t runs, const int32_t* rows,
                            const int32_t* begins, const int32_t* ends, const double* to_ground, double* areas) {
  const uint8_t* whole = labels + static_cast<int64_t>(height) * width - kBlock;
  for (int64_t run = 0; run < runs; ++run) {
    const int32_t y = rows[run], end = ends[run];
    const uint8_t* row = labels + static_cast<int64_t>(y) * width;
    const double top = static_cast<double>(y) / height, bottom = static_cast<double>(y + 1) / height;
    int32_t x = begins[run];
    Place left_top = on_ground(to_ground, static_cast<double>(x) / width, top);
    Place left_bottom = on_ground(to_ground, static_cast<double>(x) / width, bottom);
    while (x < end) {
      const uint8_t label = row[x];
      x = run_end(row, x + 1, end, label, whole);
      const Place right_top = on_ground(to_ground, static_cast<double>(x) / width, top);
      const Place right_bottom = on_ground(to_ground, static_cast<double>(x) / width, bottom);
      areas[label] += std::fabs(cross(left_top, right_top) + cross(right_top, right_bottom) +
                                cross(right_bottom, left_bottom) + cross(left_bottom, left_top)) /
                      2;
      left_top = right_top;
      left_bottom = right_bottom;
    }
  }
}
