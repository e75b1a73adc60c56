// Zones as pixels: where they begin and end in each row, and each row cut into spans of the same zones.
// A plain C interface; streamseg/analytics/raster.py calls it, and computes the same from arrays without it.
#include <algorithm>
#include <cstdint>

#define SS_API extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kRingBits = 5;  // a polygon and 16 holes

inline double centre(int32_t i, int32_t of) { return (static_cast<double>(i) + 0.5) / of; }

// The first of `of` centres that is at least `at`, or `of`.
inline int32_t first_centre(double at, int32_t of) {
  const double near = std::min(std::max(at * of + 0.5, 0.0), static_cast<double>(of));
  int32_t i = static_cast<int32_t>(near);
  while (i < of && centre(i, of) < at) ++i;
  while (i > 0 && centre(i - 1, of) >= at) --i;
  return i;
}

inline uint64_t slot_of(uint64_t set) { return set * 0x9E3779B97F4A7C15ull; }

}  // namespace

// The pixels in ring 0 and in no other: keys = y * (width + 1) + x at which they begin and end, sorted; returns how
// many. points: (n, 2) of all rings; rings: where each ends among them. Scratch: firsts (height + 1), crossings as
// many as edges cross rows; keys has room for so many, too.
SS_API int64_t ss_zone_edges(const double* points, const int32_t* rings, int32_t ring_count, int32_t height,
                             int32_t width, int64_t* firsts, uint32_t* crossings, int64_t* keys) {
  std::fill(firsts, firsts + height + 1, 0);
  // Once to count the crossings of each row, once to put them there.
  for (int pass = 0; pass < 2; ++pass) {
    int32_t begin = 0;
    for (int32_t ring = 0; ring < ring_count; begin = rings[ring++])
      for (int32_t i = begin; i < rings[ring]; ++i) {
        const int32_t next = i + 1 < rings[ring] ? i + 1 : begin;
        const double x1 = points[2 * i], y1 = points[2 * i + 1];
        const double x2 = points[2 * next], y2 = points[2 * next + 1];
        const int32_t last = first_centre(std::max(y1, y2), height);
        for (int32_t y = first_centre(std::min(y1, y2), height); y < last; ++y) {
          if (pass == 0) {
            ++firsts[y];
            continue;
          }
          const double crossing = (x2 - x1) * (centre(y, height) - y1) / (y2 - y1) + x1;
          const auto x = static_cast<uint32_t>(first_centre(crossing, width));
          crossings[--firsts[y]] = x << kRingBits | static_cast<uint32_t>(ring);
        }
      }
    if (pass == 0)
      for (int32_t y = 1; y <= height; ++y) firsts[y] += firsts[y - 1];
  }
  int64_t count = 0;
  for (int32_t y = 0; y < height; ++y) {
    uint32_t* const end = crossings + firsts[y + 1];
    std::sort(crossings + firsts[y], end);
    uint32_t inside = 0;
    for (const uint32_t* at = crossings + firsts[y]; at < end;) {
      const uint32_t x = *at >> kRingBits, before = inside;
      for (; at < end && *at >> kRingBits == x; ++at) inside ^= 1u << (*at & ((1u << kRingBits) - 1));
      if ((inside == 1) != (before == 1)) keys[count++] = static_cast<int64_t>(y) * (width + 1) + x;
    }
  }
  return count;
}

// Each row cut into spans whose pixels lie in the same set of zones. keys: of all zones, sorted within each;
// at, ends_at: where each zone's keys begin, which is changed here, and end. first, ends, sets: as in raster.Layer;
// members: the bits of the zones of each set, at most `most`. Scratch: flips (width + 1) of zeros, slots (a power
// of two of at least 2 * most, 1 << slot_bits) of -1. Returns how many sets there are, or -1: more than `most`.
SS_API int32_t ss_zone_spans(const int64_t* keys, int64_t* at, const int64_t* ends_at, int32_t zones, int32_t height, int32_t width,
                             int32_t most, int32_t slot_bits, uint64_t* flips, int32_t* slots, int64_t* first,
                             int32_t* ends, int32_t* sets, uint64_t* members) {
  int32_t known = 0;
  int64_t spans = 0;
  const uint64_t mask = (uint64_t{1} << slot_bits) - 1;
  const auto number_of = [&](uint64_t set) {
    for (uint64_t slot = slot_of(set) >> (64 - slot_bits);; slot = (slot + 1) & mask) {
      if (slots[slot] >= 0 && members[slots[slot]] == set) return slots[slot];
      if (slots[slot] >= 0) continue;
      if (known == most) return -1;
      members[known] = set;
      return slots[slot] = known++;
    }
  };
  for (int32_t y = 0; y < height; ++y) {
    const int64_t row = static_cast<int64_t>(y) * (width + 1);
    for (int32_t zone = 0; zone < zones; ++zone)
      for (; at[zone] < ends_at[zone] && keys[at[zone]] <= row + width; ++at[zone])
        flips[keys[at[zone]] - row] ^= uint64_t{1} << zone;
    uint64_t set = flips[0];
    flips[0] = flips[width] = 0;
    int32_t number = number_of(set);
    first[y] = spans;
    for (int32_t x = 1; x <= width && number >= 0; ++x) {
      if (x < width && flips[x] == 0) continue;
      ends[spans] = x;
      sets[spans++] = number;
      if (x == width) break;
      set ^= flips[x];
      flips[x] = 0;
      number = number_of(set);
    }
    if (number < 0) return -1;
  }
  first[height] = spans;
  return known;
}
