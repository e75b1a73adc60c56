// The (1/2, 1, 1/2) blur along one lattice axis, in place along chains of neighbours (Adams et al. 2010, section 3.3).
#pragma once

#include "kernels.h"
#include "simd.h"

namespace {

template <int NV>
struct Row {
  VF v[NV];
};

template <int NV>
inline Row<NV> get(const float* p) {
  Row<NV> r;
  for (int i = 0; i < NV; ++i) r.v[i] = load(p + i * W);
  return r;
}
template <int NV>
inline void put(float* p, const Row<NV>& r) {
  for (int i = 0; i < NV; ++i) store(p + i * W, r.v[i]);
}

constexpr size_t kBlurAhead = 48;

// One chunk of NV vectors of every row, `stride` floats apart. No branch on chain ends: a chain ends in a row of zeros,
// and what would be written there goes to the part's own sink.
template <int NV>
void blur_rows(const ss::BlurChain& c, float* values, size_t stride) {
  Row<NV> before{}, here = get<NV>(values + size_t{c.stream[c.begin]} * stride);
  for (size_t t = c.begin; t < c.end; ++t) {
    const uint32_t at = c.stream[t];
    if (t + kBlurAhead < c.end) {
      const float* soon = values + size_t{c.stream[t + kBlurAhead]} * stride;
      for (int i = 0; i < NV * W * 4; i += 64) __builtin_prefetch(soon + i / 4, 1);
    }
    const Row<NV> after = t + 1 < c.end ? get<NV>(values + size_t{c.stream[t + 1]} * stride) : Row<NV>{};
    Row<NV> out;
    for (int i = 0; i < NV; ++i) out.v[i] = here.v[i] + 0.5f * (before.v[i] + after.v[i]);
    put<NV>(values + size_t{at == c.zero_row ? c.sink_row : at} * stride, out);
    before = here;
    here = after;
  }
}

inline bool is_shared(const ss::Shares& s, uint32_t at) { return s.shared[at >> 5] >> (at & 31) & 1; }

inline size_t own_row(const ss::Shares& s, uint32_t at) {
  size_t row = at;
  if (s.apart)
    for (const uint32_t* copy = s.copies; *copy != ss::kNone; copy += 2) row = at >= copy[0] ? size_t{at} + copy[1] : row;
  return row;
}

template <int NV>
inline Row<NV> take(const float* sums, uint32_t at, size_t stride, const ss::Shares& s) {
  Row<NV> r = get<NV>(sums + own_row(s, at) * stride);
  if (is_shared(s, at)) {
    for (const uint32_t* copy = s.copies; *copy != ss::kNone; copy += 2) {
      if (at >= copy[0]) continue;
      const Row<NV> more = get<NV>(sums + (size_t{at} + copy[1]) * stride);
      for (int i = 0; i < NV; ++i) r.v[i] += more.v[i];
    }
  }
  return r;
}

template <int NV>
void blur_first_rows(const ss::BlurChain& c, const float* sums, float* values, size_t stride, const float* factor,
                     const ss::Shares& given) {
  const ss::Shares s = given;
  const Row<NV> by = get<NV>(factor);
  Row<NV> before{}, here = take<NV>(sums, c.stream[c.begin], stride, s);
  for (size_t t = c.begin; t < c.end; ++t) {
    const uint32_t at = c.stream[t];
    if (t + kBlurAhead < c.end) {
      const uint32_t next = c.stream[t + kBlurAhead];
      const size_t soon = size_t{next} * stride, own = own_row(s, next) * stride;
      for (int i = 0; i < NV * W; i += 16) {
        __builtin_prefetch(sums + own + i, 0, 2);
        __builtin_prefetch(values + soon + i, 1, 2);
      }
      if (is_shared(s, next)) {
        for (const uint32_t* copy = s.copies; *copy != ss::kNone; copy += 2)
          for (int i = 0; i < NV * W; i += 16) __builtin_prefetch(sums + (size_t{next} + copy[1]) * stride + i);
      }
    }
    const Row<NV> after = t + 1 < c.end ? take<NV>(sums, c.stream[t + 1], stride, s) : Row<NV>{};
    Row<NV> out;
    for (int i = 0; i < NV; ++i) out.v[i] = by.v[i] * (here.v[i] + 0.5f * (before.v[i] + after.v[i]));
    put<NV>(values + size_t{at == c.zero_row ? c.sink_row : at} * stride, out);
    before = here;
    here = after;
  }
}

// Rows of more than four vectors go through in chunks.
void blur(const ss::BlurChain& c, float* values, int row) {
  int at = 0;
  for (; at + 4 * W <= row; at += 4 * W) blur_rows<4>(c, values + at, row);
  switch ((row - at) / W) {
    case 1: blur_rows<1>(c, values + at, row); break;
    case 2: blur_rows<2>(c, values + at, row); break;
    case 3: blur_rows<3>(c, values + at, row); break;
    default: break;
  }
}

void blur_first(const ss::BlurChain& c, const float* sums, float* values, int row, const float* factor,
                const ss::Shares& s) {
  int at = 0;
  for (; at + 4 * W <= row; at += 4 * W)
    blur_first_rows<4>(c, sums + at, values + at, row, factor + at, s);
  switch ((row - at) / W) {
    case 1: blur_first_rows<1>(c, sums + at, values + at, row, factor + at, s); break;
    case 2: blur_first_rows<2>(c, sums + at, values + at, row, factor + at, s); break;
    case 3: blur_first_rows<3>(c, sums + at, values + at, row, factor + at, s); break;
    default: break;
  }
}

void blur_scalar(const ss::BlurChain& c, float* values) {
  float before = 0.0f, here = values[c.stream[c.begin]];
  for (size_t t = c.begin; t < c.end; ++t) {
    const uint32_t at = c.stream[t];
    const float after = t + 1 < c.end ? values[c.stream[t + 1]] : 0.0f;
    values[at == c.zero_row ? c.sink_row : at] = here + 0.5f * (before + after);
    before = here;
    here = after;
  }
}

// row <- row * matrix, for the full-matrix compatibility: done on lattice rows, because it commutes with the filter.
void mix(float* rows, size_t begin, size_t end, int lanes_used, int row, const float* matrix, float* scratch) {
  for (size_t p = begin; p < end; ++p) {
    float* r = rows + p * row;
    for (int at = 0; at < row; at += W) {
      VF sum{};
      for (int l = 0; l < lanes_used; ++l) sum += r[l] * load(matrix + static_cast<size_t>(l) * row + at);
      store(scratch + at, sum);
    }
    std::memcpy(r, scratch, static_cast<size_t>(row) * sizeof(float));
  }
}

}  // namespace
