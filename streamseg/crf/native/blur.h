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
// and what would be written there goes to the part's own sink. read(point) gives the row of the first of a chain's points.
template <int NV, class Read, class Ask, class Out>
inline void along_chains(const ss::BlurChain& c, float* values, size_t stride, const Read& read, const Ask& ask,
                         const Out& out) {
  const uint32_t *stream = c.stream, zero_row = c.zero_row, sink_row = c.sink_row;
  size_t t = c.begin;
  const size_t end = c.end, last = end - 1, asked = end - c.begin > kBlurAhead ? end - kBlurAhead : t;
  Row<NV> before{}, here = read(stream[t]);
  const auto step = [&](const Row<NV>& after) {
    const uint32_t at = stream[t];
    put<NV>(values + size_t{at == zero_row ? sink_row : at} * stride, out(here, before, after));
    before = here;
    here = after;
  };
  for (; t < asked; ++t) {
    ask(stream[t + kBlurAhead]);
    step(read(stream[t + 1]));
  }
  for (; t < last; ++t) step(read(stream[t + 1]));
  step(Row<NV>{});
}

template <int NV>
void blur_rows(const ss::BlurChain& c, float* values, size_t stride) {
  along_chains<NV>(
      c, values, stride, [&](uint32_t at) { return get<NV>(values + size_t{at} * stride); },
      [&](uint32_t at) {
        const float* soon = values + size_t{at} * stride;
        for (int i = 0; i < NV * W; i += 16) __builtin_prefetch(soon + i, 1);
      },
      [](const Row<NV>& here, const Row<NV>& before, const Row<NV>& after) {
        Row<NV> r;
        for (int i = 0; i < NV; ++i) r.v[i] = here.v[i] + 0.5f * (before.v[i] + after.v[i]);
        return r;
      });
}

inline bool is_shared(const ss::Shares& s, uint32_t at) { return s.shared[at >> 5] >> (at & 31) & 1; }

inline size_t own_row(const ss::Shares& s, uint32_t at) {
  size_t row = at;
  if (s.apart)
    for (const uint32_t* copy = s.copies; *copy != ss::kNone; copy += 2) row = at >= copy[0] ? size_t{at} + copy[1] : row;
  return row;
}

// A point's sums, those of all parts that have some; they are left empty for the next pass. The row
// of zeros is the part's own sink here, so that no two threads write to one row.
template <int NV>
inline Row<NV> take(float* sums, uint32_t at, size_t stride, const ss::Shares& s, const ss::BlurChain& c) {
  float* own = sums + (at == c.zero_row ? size_t{c.sink_row} : own_row(s, at)) * stride;
  Row<NV> r = get<NV>(own);
  put<NV>(own, Row<NV>{});
  if (is_shared(s, at)) {
    for (const uint32_t* copy = s.copies; *copy != ss::kNone; copy += 2) {
      if (at >= copy[0]) continue;
      float* other = sums + (size_t{at} + copy[1]) * stride;
      const Row<NV> more = get<NV>(other);
      put<NV>(other, Row<NV>{});
      for (int i = 0; i < NV; ++i) r.v[i] += more.v[i];
    }
  }
  return r;
}

// Where two parts' sums of a point lie, as for one and two threads: no branch on whether it is shared.
struct TwoRows {
  size_t own, other;
};
inline TwoRows rows_of_two(const ss::Shares& s, uint32_t at, const ss::BlurChain& c) {
  const size_t shifted = size_t{at} + s.copies[1], own = s.apart && at >= s.copies[0] ? shifted : at;
  return {at == c.zero_row ? size_t{c.sink_row} : own, is_shared(s, at) ? shifted : size_t{c.sink_row}};
}

template <int NV>
inline Row<NV> take_of_two(float* sums, uint32_t at, size_t stride, const ss::Shares& s, const ss::BlurChain& c) {
  const TwoRows rows = rows_of_two(s, at, c);
  Row<NV> r = get<NV>(sums + rows.own * stride);
  const Row<NV> more = get<NV>(sums + rows.other * stride);
  for (int i = 0; i < NV; ++i) r.v[i] += more.v[i];
  put<NV>(sums + rows.own * stride, Row<NV>{});
  put<NV>(sums + rows.other * stride, Row<NV>{});
  return r;
}

template <int NV>
void blur_first_rows(const ss::BlurChain& chain, float* sums, float* values, size_t stride, const float* factor,
                     const ss::Shares& given) {
  const ss::BlurChain c = chain;
  const ss::Shares s = given;
  const Row<NV> by = get<NV>(factor);
  const auto prefetch = [&](float* row) {
    for (int i = 0; i < NV * W; i += 16) __builtin_prefetch(row + i, 1, 2);
  };
  const auto out = [&](const Row<NV>& here, const Row<NV>& before, const Row<NV>& after) {
    Row<NV> r;
    for (int i = 0; i < NV; ++i) r.v[i] = by.v[i] * (here.v[i] + 0.5f * (before.v[i] + after.v[i]));
    return r;
  };
  if (s.copies[0] != ss::kNone && s.copies[2] == ss::kNone) {
    return along_chains<NV>(
        c, values, stride, [&](uint32_t at) { return take_of_two<NV>(sums, at, stride, s, c); },
        [&](uint32_t at) {
          const TwoRows rows = rows_of_two(s, at, c);
          prefetch(values + size_t{at} * stride);
          prefetch(sums + rows.own * stride);
          prefetch(sums + rows.other * stride);
        },
        out);
  }
  along_chains<NV>(
      c, values, stride, [&](uint32_t at) { return take<NV>(sums, at, stride, s, c); },
      [&](uint32_t at) {
        prefetch(values + size_t{at} * stride);
        prefetch(sums + own_row(s, at) * stride);
        if (!is_shared(s, at)) return;
        for (const uint32_t* copy = s.copies; *copy != ss::kNone; copy += 2) prefetch(sums + (size_t{at} + copy[1]) * stride);
      },
      out);
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

void blur_first(const ss::BlurChain& c, float* sums, float* values, int row, const float* factor,
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
