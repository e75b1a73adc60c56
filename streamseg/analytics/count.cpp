// Counts the pixels of each class in each set of zones, in one pass over a mask.
// A plain C interface; streamseg/analytics/counting.py calls it, raster.py makes the spans.
//
// Masks are long runs of one label: eight pixels are compared at once, and a run costs one addition.
#include <cmath>
#include <cstdint>
#include <cstring>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first byte of eight is the lowest");

#define SS_API extern "C" __attribute__((visibility("default")))

namespace {

inline uint64_t eight(const uint8_t* at) {
  uint64_t bytes;
  std::memcpy(&bytes, at, 8);
  return bytes;
}

// The first x from `x` on, below `end`, whose label is another one; else end.
inline int32_t run_end(const uint8_t* row, int32_t x, int32_t end, uint8_t label) {
  if (x < end && row[x] != label) return x;
  const uint64_t same = label * 0x0101010101010101ull;
  for (; x + 8 <= end; x += 8)
    if (const uint64_t other = eight(row + x) ^ same) return x + (__builtin_ctzll(other) >> 3);
  while (x < end && row[x] == label) ++x;
  return x;
}

inline uint64_t sum(const uint8_t* from, int32_t count) {
  uint64_t total = 0;
  while (count > 0) {
    const int32_t part = count < 65536 ? count : 65536;
    uint32_t some = 0;
    for (int32_t i = 0; i < part; ++i) some += from[i];
    total += some;
    from += part;
    count -= part;
  }
  return total;
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
  for (int32_t y = 0; y < height; ++y) {
    const uint8_t* row = labels + static_cast<int64_t>(y) * width;
    const uint8_t* sure = confidence == nullptr ? nullptr : confidence + static_cast<int64_t>(y) * width;
    int32_t x = 0;
    for (int64_t span = first[y]; span < first[y + 1]; ++span) {
      const int32_t end = ends[span];
      const int64_t table = static_cast<int64_t>(sets[span]) * 256;
      while (x < end) {
        const uint8_t label = row[x];
        const int32_t next = run_end(row, x + 1, end, label);
        pixels[table + label] += static_cast<uint64_t>(next - x);
        if (sure != nullptr) sums[table + label] += sum(sure + x, next - x);
        x = next;
      }
    }
  }
}

// The area on the ground of each class's pixels in runs [begins, ends) of rows; areas: (256), added to.
SS_API void ss_count_ground(const uint8_t* labels, int32_t height, int32_t width, int64_t runs, const int32_t* rows,
                            const int32_t* begins, const int32_t* ends, const double* to_ground, double* areas) {
  for (int64_t run = 0; run < runs; ++run) {
    const int32_t y = rows[run], end = ends[run];
    const uint8_t* row = labels + static_cast<int64_t>(y) * width;
    const double top = static_cast<double>(y) / height, bottom = static_cast<double>(y + 1) / height;
    int32_t x = begins[run];
    Place left_top = on_ground(to_ground, static_cast<double>(x) / width, top);
    Place left_bottom = on_ground(to_ground, static_cast<double>(x) / width, bottom);
    while (x < end) {
      const uint8_t label = row[x];
      x = run_end(row, x + 1, end, label);
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
