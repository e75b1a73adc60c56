// All three axes of a two-dimensional lattice in one sweep, where neighbours lie near one another in memory.
#pragma once

#include "blur.h"
#include "kernels.h"
#include "simd.h"

namespace {

constexpr uint32_t kWaveBlock = 64;
constexpr int64_t kSumsAhead = 16;  // beyond the furthest neighbour, which is the first to be read

// Axis by axis a lattice of positions would go through the cache three times. Here the first axis runs `reach` points
// ahead of the second, and that one ahead of the third; what lies between them waits in two small rings.
template <int NV>
ss::Wave wave_rows(ss::Wave w, int64_t limit, const float* sums, float* values, size_t stride, const float* factor,
                   float* ring0, float* ring1) {
  const Row<NV> by = get<NV>(factor);
  const uint32_t mask = w.ring - 1;
  const int64_t reach = w.reach, points = w.points;
  put<NV>(ring0 + size_t{w.ring} * stride, Row<NV>{});
  put<NV>(ring1 + size_t{w.ring} * stride, Row<NV>{});
  const auto least = [](int64_t a, int64_t b) { return a < b ? a : b; };
  const int64_t last0 = least(w.end + 2 * reach, points), last1 = least(w.end + reach, points);
  const int64_t stop0 = limit >= points ? last0 : least(last0, limit - reach);
  int64_t at0 = w.at[0], at1 = w.at[1], at2 = w.at[2];
  const auto blurred = [](const Row<NV>& own, const Row<NV>& a, const Row<NV>& b) {
    Row<NV> r;
    for (int i = 0; i < NV; ++i) r.v[i] = own.v[i] + 0.5f * (a.v[i] + b.v[i]);
    return r;
  };
  bool more = at0 < stop0 || (at0 == last0 && at2 < w.end);
  while (more) {
    const int64_t block0 = least(at0 + kWaveBlock, stop0);
    for (; at0 < block0; ++at0) {
      const uint32_t* near = w.near + at0 * 6;
      const float* soon = sums + (at0 + reach + kSumsAhead) * static_cast<int64_t>(stride);
      for (int i = 0; i < NV * W; i += 16) __builtin_prefetch(soon + i);
      Row<NV> r = blurred(get<NV>(sums + at0 * stride), get<NV>(sums + size_t{near[0]} * stride),
                          get<NV>(sums + size_t{near[1]} * stride));
      for (int i = 0; i < NV; ++i) r.v[i] *= by.v[i];
      put<NV>(ring0 + (at0 & mask) * stride, r);
    }
    const int64_t ready1 = at0 == last0 ? last1 : least(at0 - reach, last1);
    for (; at1 < ready1; ++at1) {
      const uint32_t* near = w.near + at1 * 6;
      const size_t a = near[2] == points ? w.ring : near[2] & mask, b = near[3] == points ? w.ring : near[3] & mask;
      put<NV>(ring1 + (at1 & mask) * stride,
              blurred(get<NV>(ring0 + (at1 & mask) * stride), get<NV>(ring0 + a * stride), get<NV>(ring0 + b * stride)));
    }
    const int64_t ready2 = at1 == last1 ? w.end : least(at1 - reach, w.end);
    for (; at2 < ready2; ++at2) {
      const uint32_t* near = w.near + at2 * 6;
      const size_t a = near[4] == points ? w.ring : near[4] & mask, b = near[5] == points ? w.ring : near[5] & mask;
      put<NV>(values + at2 * stride,
              blurred(get<NV>(ring1 + (at2 & mask) * stride), get<NV>(ring1 + a * stride), get<NV>(ring1 + b * stride)));
    }
    more = at0 < stop0;
  }
  w.at[0] = at0, w.at[1] = at1, w.at[2] = at2;
  return w;
}

// Rows of more than four vectors go through in chunks, each from where all of them were.
void wave(ss::Wave& w, int64_t limit, const float* sums, float* values, int row, const float* factor, float* rings) {
  if (w.begin >= w.end) return;
  const size_t ring = (size_t{w.ring} + 1) * row;
  float* ring0 = rings;
  float* ring1 = rings + ring;
  ss::Wave next = w;
  int at = 0;
  for (; at + 4 * W <= row; at += 4 * W)
    next = wave_rows<4>(w, limit, sums + at, values + at, row, factor + at, ring0 + at, ring1 + at);
  switch ((row - at) / W) {
    case 1: next = wave_rows<1>(w, limit, sums + at, values + at, row, factor + at, ring0 + at, ring1 + at); break;
    case 2: next = wave_rows<2>(w, limit, sums + at, values + at, row, factor + at, ring0 + at, ring1 + at); break;
    case 3: next = wave_rows<3>(w, limit, sums + at, values + at, row, factor + at, ring0 + at, ring1 + at); break;
    default: break;
  }
  w = next;
}

}  // namespace
