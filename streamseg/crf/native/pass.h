// One sweep over the pixels of a band: slice every term, soft-max, splat again for the next iteration.
#pragma once

#include "blur.h"
#include "kernels.h"
#include "simd.h"
#include "soft_max.h"

namespace {

constexpr size_t kPixelsAhead = 16;
static_assert(kPixelsAhead <= ss::kVisitPad, "visits are read ahead");
constexpr size_t kUnaryAhead = 384, kWeightsAhead = 256;  // floats; the machine's own prefetch stops at the end of a page

// The sums and products of a step are written once, so that whole runs and single steps do the same arithmetic to the bit.
template <int NV>
inline void add(Row<NV>& to, float by, const Row<NV>& row) {
  for (int i = 0; i < NV; ++i) to.v[i] += by * row.v[i];
}

// Unary rows lie packed, `lanes` floats each: what a vector reads beyond that belongs to the next one.
template <int NV>
struct Packed {
  VI mask, pad;
  explicit Packed(int lanes) {
    for (int l = 0; l < W; ++l) {
      const bool own = (NV - 1) * W + l < lanes;
      mask[l] = own ? -1 : 0;
      pad[l] = own ? 0 : (int32_t)0xc61c4000;  // -1e4f
    }
  }
  Row<NV> get(const float* p) const {
    Row<NV> r;
    for (int i = 0; i < NV; ++i) r.v[i] = load(p + i * W);
    r.v[NV - 1] = (VF)(((VI)r.v[NV - 1] & mask) | pad);
    return r;
  }
};

template <int NV>
inline void prefetch_row(const float* p) {
  for (int i = 0; i < NV * W; i += 16) __builtin_prefetch(p + i);
}
template <int NV>
inline void prefetch_row_to_write(float* p) {
  for (int i = 0; i < NV * W; i += 16) __builtin_prefetch(p + i, 1);
}

// NV: vectors of a row. MAIN: vertices of the main term. OTHER: vertices of the only other term, or 0 for any number.
// Everything used inside the loops is a local copy: the compiler must think that a store to a row may change `pass`.
template <int NV, int MAIN, int OTHER, bool GAIN, ss::Step STEP>
void pass_fast(const ss::Pass& pass) {
  constexpr size_t stride = NV * W;
  constexpr bool first = STEP == ss::Step::kFirst, slice = !first, last = STEP == ss::Step::kLast;
  constexpr int most_terms = OTHER ? 2 : ss::kFewTerms;
  const ss::Pass p = pass;
  const ss::PassTerm m = p.term[0];
  ss::PassTerm others[most_terms];
  const int terms = OTHER ? 2 : p.terms;
  for (int t = 0; t < terms; ++t) others[t] = p.term[t];
  const bool splat = STEP == ss::Step::kMiddle || (first && p.splat);
  const bool soft = STEP == ss::Step::kMiddle || p.soft;
  const bool scattered = OTHER && others[1].scattered;
  const Packed<NV> packed(p.lanes);
  const size_t lanes = p.lanes;
  const Row<NV> centre = get<NV>(p.centre);
  size_t at = p.begin;
  for (size_t g = 0; g < p.groups; ++g) {
    const uint32_t* vertex = m.vertices + size_t{p.group[g].simplex} * MAIN;
    const size_t end = p.group[g].end;
    {  // a simplex' rows lie anywhere: the machine's own prefetch does not see them
      const uint32_t* soon = m.vertices + size_t{p.group[g + ss::kGroupPad].simplex} * MAIN;
      for (int k = 0; k < MAIN; ++k) {
        if (slice) prefetch_row<NV>(m.values + size_t{soon[k]} * stride);
        if (!last) prefetch_row_to_write<NV>(m.sums + size_t{soon[k]} * stride);
      }
    }
    Row<NV> rows[MAIN], sums[MAIN];
    for (int k = 0; k < MAIN; ++k) {
      rows[k] = slice ? get<NV>(m.values + size_t{vertex[k]} * stride) : Row<NV>{};
      sums[k] = Row<NV>{};
    }
    for (; at < end; ++at) {
      const size_t in_band = p.place[at], pixel = p.begin + in_band;
      if (OTHER) {
        const size_t soon = p.begin + p.place[at + kPixelsAhead];
        __builtin_prefetch(others[1].weights + soon * OTHER);
        __builtin_prefetch(others[1].simplex + soon);
        if (scattered) {
          const size_t sooner = p.begin + p.place[at + kPixelsAhead / 2];
          const uint32_t* point = others[1].vertices + size_t{others[1].simplex[sooner]} * OTHER;
          for (int k = 0; k < OTHER; ++k) {
            if (slice) prefetch_row<NV>(others[1].values + size_t{point[k]} * stride);
            if (!last) prefetch_row_to_write<NV>(others[1].sums + size_t{point[k]} * stride);
          }
        }
      }
      const float* w = m.weights + at * MAIN;
      __builtin_prefetch(w + kWeightsAhead);
      Row<NV> x;
      if (first) {
        x = get<NV>(p.rows + in_band * stride);
        if (p.keep) {  // past the row's end lies the next one, which comes later, or the next band's, which is another's
          float* to = p.unary + at * lanes;
          if (at + NV * W < p.end) {
            put<NV>(to, x);
          } else {
            std::memcpy(to, &x, lanes * sizeof(float));
          }
        }
      } else {
        if (p.unary) __builtin_prefetch(p.unary + at * lanes + kUnaryAhead);
        x = p.unary ? packed.get(p.unary + at * lanes) : Row<NV>{};
        Row<NV> even, odd;  // three sums that need not wait for one another
        for (int i = 0; i < NV; ++i) even.v[i] = w[0] * rows[0].v[i], odd.v[i] = w[1] * rows[1].v[i];
        for (int k = 2; k < MAIN; k += 2) add<NV>(even, w[k], rows[k]);
        for (int k = 3; k < MAIN; k += 2) add<NV>(odd, w[k], rows[k]);
        for (int t = 1; t < terms; ++t) {
          const ss::PassTerm& o = others[t];
          const int nv = OTHER ? OTHER : o.nv;
          const float* by = o.weights + pixel * nv;
          const uint32_t* from = o.vertices + size_t{o.simplex[pixel]} * nv;
          const float gain = GAIN && o.gain_out ? o.gain_out[pixel] : 1.0f;
          for (int k = 0; k < nv; ++k)
            add<NV>(x, GAIN ? by[k] * gain : by[k], get<NV>(o.values + size_t{from[k]} * stride));
        }
        const float gain = GAIN && m.gain_out ? m.gain_out[at] : 1.0f;
        for (int i = 0; i < NV; ++i) x.v[i] += GAIN ? (even.v[i] + odd.v[i]) * gain : even.v[i] + odd.v[i];
      }
      if (soft) soft_max(x.v, NV);
      if (!splat) {
        if (last || !p.keep) put<NV>(p.rows + in_band * stride, x);
        continue;
      }
      for (int i = 0; i < NV; ++i) x.v[i] = rounded(x.v[i]) - centre.v[i];
      const float gain = GAIN && m.gain_in ? m.gain_in[at] : 1.0f;
      for (int k = 0; k < MAIN; ++k) add<NV>(sums[k], GAIN ? w[k] * gain : w[k], x);
      for (int t = 1; t < terms; ++t) {
        const ss::PassTerm& o = others[t];
        const int nv = OTHER ? OTHER : o.nv;
        const float* by = o.weights + pixel * nv;
        const uint32_t* to = o.vertices + size_t{o.simplex[pixel]} * nv;
        const float other_gain = GAIN && o.gain_in ? o.gain_in[pixel] : 1.0f;
        for (int k = 0; k < nv; ++k) {
          float* s = o.sums + size_t{to[k] + (to[k] < o.below ? o.shift : 0u)} * stride;
          Row<NV> r = get<NV>(s);
          add<NV>(r, GAIN ? by[k] * other_gain : by[k], x);
          put<NV>(s, r);
        }
      }
    }
    if (!splat) continue;
    for (int k = 0; k < MAIN; ++k) {
      float* s = m.sums + size_t{vertex[k] + (MAIN == 3 && vertex[k] < m.below ? m.shift : 0u)} * stride;  // see Term::apart
      Row<NV> r = get<NV>(s);
      for (int i = 0; i < NV; ++i) r.v[i] += sums[k].v[i];
      put<NV>(s, r);
    }
  }
}

inline void soft_max_any(float* x, size_t stride) {
  VF most = load(x), sum{};
  for (size_t i = W; i < stride; i += W) most = vmax(most, load(x + i));
  most = fold_max(most);
  for (size_t i = 0; i < stride; i += W) {
    const VF e = vexp(load(x + i) - most);
    sum += e;
    store(x + i, e);
  }
  const float scale = 1.0f / fold(sum)[0];
  for (size_t i = 0; i < stride; i += W) store(x + i, load(x + i) * scale);
}

// Any number of classes, terms and dimensions: rows stay in memory.
void pass_any(const ss::Pass& p) {
  const size_t stride = p.row, lanes = p.lanes;
  float* x = p.scratch;
  size_t at = p.begin;
  for (size_t g = 0; g < p.groups; ++g) {
    for (; at < p.group[g].end; ++at) {
      const size_t in_band = p.place[at], pixel = p.begin + in_band;
      const auto each_vertex = [&](int t, auto&& act) {
        const ss::PassTerm& o = p.term[t];
        const uint32_t* vertex = o.vertices + size_t{t ? o.simplex[pixel] : p.group[g].simplex} * o.nv;
        const float* by = o.weights + (t ? pixel : at) * o.nv;
        for (int k = 0; k < o.nv; ++k) act(vertex[k], by[k]);
      };
      if (p.step == ss::Step::kFirst) {
        std::memcpy(x, p.rows + in_band * stride, stride * sizeof(float));
        if (p.keep) std::memcpy(p.unary + at * lanes, x, lanes * sizeof(float));
      } else {
        for (size_t i = 0; i < stride; i += W) store(x + i, all(p.unary ? -1e4f : 0.0f));
        if (p.unary) std::memcpy(x, p.unary + at * lanes, lanes * sizeof(float));
        for (int t = 0; t < p.terms; ++t) {
          const ss::PassTerm& o = p.term[t];
          const float gain = o.gain_out ? o.gain_out[t ? pixel : at] : 1.0f;
          each_vertex(t, [&](uint32_t point, float weight) {
            const float* r = o.values + size_t{point} * stride;
            const float by = weight * gain;
            for (size_t i = 0; i < stride; i += W) store(x + i, load(x + i) + by * load(r + i));
          });
        }
      }
      if (p.soft || p.step == ss::Step::kMiddle) soft_max_any(x, stride);
      if (p.step == ss::Step::kLast || (p.step == ss::Step::kFirst && !p.splat)) {
        if (p.step == ss::Step::kLast || !p.keep)
          std::memcpy(p.rows + in_band * stride, x, stride * sizeof(float));
        continue;
      }
      for (size_t i = 0; i < stride; i += W) store(x + i, load(x + i) - load(p.centre + i));
      for (int t = 0; t < p.terms; ++t) {
        const ss::PassTerm& o = p.term[t];
        const float gain = o.gain_in ? o.gain_in[t ? pixel : at] : 1.0f;
        each_vertex(t, [&](uint32_t point, float weight) {
          float* s = o.sums + size_t{point + (point < o.below ? o.shift : 0u)} * stride;
          const float by = weight * gain;
          for (size_t i = 0; i < stride; i += W) store(s + i, load(s + i) + by * load(x + i));
        });
      }
    }
  }
}

template <int NV, int MAIN, int OTHER, bool GAIN>
void pass_step(const ss::Pass& p) {
  switch (p.step) {
    case ss::Step::kFirst: return pass_fast<NV, MAIN, OTHER, GAIN, ss::Step::kFirst>(p);
    case ss::Step::kMiddle: return pass_fast<NV, MAIN, OTHER, GAIN, ss::Step::kMiddle>(p);
    case ss::Step::kLast: return pass_fast<NV, MAIN, OTHER, GAIN, ss::Step::kLast>(p);
  }
}

template <int NV>
bool pass_of(const ss::Pass& p) {
  bool gain = false;
  for (int t = 0; t < p.terms; ++t) gain = gain || p.term[t].gain_in || p.term[t].gain_out;
  const int main = p.term[0].nv;
  if (p.terms > ss::kFewTerms) return false;
  if (gain) return main == 6 && (pass_step<NV, 6, 0, true>(p), true);
  if (main == 6 && p.terms == 2 && p.term[1].nv == 3) return pass_step<NV, 6, 3, false>(p), true;
  if (main == 6) return pass_step<NV, 6, 0, false>(p), true;
  if (main == 4) return pass_step<NV, 4, 0, false>(p), true;
  if (main == 3) return pass_step<NV, 3, 0, false>(p), true;
  return false;
}

void pass(const ss::Pass& p) {
  bool done = false;
  switch (p.row / W) {
    case 1: done = pass_of<1>(p); break;
    case 2: done = pass_of<2>(p); break;
    case 3: done = pass_of<3>(p); break;
    default: break;
  }
  if (!done) pass_any(p);
}

}  // namespace
