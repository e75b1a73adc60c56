// All three axes of a two-dimensional lattice in one sweep, where neighbours lie near one another in memory.
#pragma once

#include "blur.h"
#include "kernels.h"
#include "simd.h"

namespace {

constexpr uint32_t kWaveBlock = 64;

// Axis by axis a lattice of positions would go through the cache three times. Here the first axis runs `reach` points
// ahead of the second, and that one ahead of the third; what lies between them waits in two small rings.
template <int NV>
void wave_rows(const ss::Wave& w, float* sums, float* values, size_t stride, const float* factor, float* ring0,
               float* ring1) {
  const Row<NV> by = get<NV>(factor);
  const uint32_t mask = w.ring - 1;
  const int64_t reach = w.reach, points = w.points;
  put<NV>(ring0 + size_t{w.ring} * stride, Row<NV>{});
  put<NV>(ring1 + size_t{w.ring} * stride, Row<NV>{});
  const auto clip = [&](int64_t p) { return p < 0 ? int64_t{0} : (p > points ? points : p); };
  const int64_t first0 = clip(w.begin - 2 * reach), last0 = clip(w.end + 2 * reach);
  const int64_t first1 = clip(w.begin - reach), last1 = clip(w.end + reach);
  int64_t at0 = first0, at1 = first1, at2 = w.begin, clear = w.clear_begin;
  const auto blurred = [](const Row<NV>& own, const Row<NV>& a, const Row<NV>& b) {
    Row<NV> r;
    for (int i = 0; i < NV; ++i) r.v[i] = own.v[i] + 0.5f * (a.v[i] + b.v[i]);
    return r;
  };
  while (at2 < w.end) {
    const int64_t stop0 = at0 + kWaveBlock < last0 ? at0 + kWaveBlock : last0;
    for (; at0 < stop0; ++at0) {
      const uint32_t* near = w.near + at0 * 6;
      Row<NV> r = blurred(get<NV>(sums + at0 * stride), get<NV>(sums + size_t{near[0]} * stride),
                          get<NV>(sums + size_t{near[1]} * stride));
      for (int i = 0; i < NV; ++i) r.v[i] *= by.v[i];
      put<NV>(ring0 + (at0 & mask) * stride, r);
    }
    const int64_t done0 = at0 == last0 ? w.clear_end : (at0 - reach < w.clear_end ? at0 - reach : w.clear_end);
    for (; clear < done0; ++clear) put<NV>(sums + clear * stride, Row<NV>{});
    const int64_t ready1 = at0 == last0 ? last1 : (at0 - reach < last1 ? at0 - reach : last1);
    for (; at1 < ready1; ++at1) {
      const uint32_t* near = w.near + at1 * 6;
      const size_t a = near[2] == points ? w.ring : near[2] & mask, b = near[3] == points ? w.ring : near[3] & mask;
      put<NV>(ring1 + (at1 & mask) * stride,
              blurred(get<NV>(ring0 + (at1 & mask) * stride), get<NV>(ring0 + a * stride), get<NV>(ring0 + b * stride)));
    }
    const int64_t ready2 = at1 == last1 ? w.end : (at1 - reach < w.end ? at1 - reach : int64_t{w.end});
    for (; at2 < ready2; ++at2) {
      const uint32_t* near = w.near + at2 * 6;
      const size_t a = near[4] == points ? w.ring : near[4] & mask, b = near[5] == points ? w.ring : near[5] & mask;
      put<NV>(values + at2 * stride,
              blurred(get<NV>(ring1 + (at2 & mask) * stride), get<NV>(ring1 + a * stride), get<NV>(ring1 + b * stride)));
    }
  }
}

void wave(const ss::Wave& w, float* sums, float* values, int row, const float* factor, float* rings) {
  const size_t ring = (size_t{w.ring} + 1) * row;
  float* ring0 = rings;
  float* ring1 = rings + ring;
  int at = 0;
  for (; at + 4 * W <= row; at += 4 * W)
    wave_rows<4>(w, sums + at, values + at, row, factor + at, ring0 + at, ring1 + at);
  switch ((row - at) / W) {
    case 1: wave_rows<1>(w, sums + at, values + at, row, factor + at, ring0 + at, ring1 + at); break;
    case 2: wave_rows<2>(w, sums + at, values + at, row, factor + at, ring0 + at, ring1 + at); break;
    case 3: wave_rows<3>(w, sums + at, values + at, row, factor + at, ring0 + at, ring1 + at); break;
    default: break;
  }
}

}  // namespace
