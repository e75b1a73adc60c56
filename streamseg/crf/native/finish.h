// The last step of the reduced qualities: messages from a coarse lattice to the pixels of a finer grid.
#pragma once

#include "pass.h"

namespace {

// Where some vertices of a pixel's simplex are missing, both the message and the norm lose the same share; dividing by
// the share's root (symmetric) or leaving the ratio (after) keeps the message's size.
inline float finish_gain(const ss::FinishTerm& o, float norm, float present) {
  if (present <= 0.0f) return 0.0f;
  switch (o.normalisation) {
    case 3: return 1.0f / __builtin_sqrtf(o.norm_factor * norm * present + 1e-20f);
    case 2: return 1.0f / (o.norm_factor * norm + 1e-20f);
    default: return 1.0f / present;
  }
}

inline float gain_of(const ss::FinishTerm& o, const uint32_t* from, const float* w) {
  if (o.folded) return 1.0f;
  float norm = 0.0f, present = 0.0f;
  for (int k = 0; k < o.nv; ++k) {
    const float n = o.norm_values[from[k]];
    norm += w[k] * n;
    present += n > 0.0f ? w[k] : 0.0f;
  }
  return finish_gain(o, norm, present);
}

void fold_norm(const ss::FinishTerm& o, size_t count, float* weights) {
  for (size_t pixel = 0; pixel < count; ++pixel) {
    float* w = weights + pixel * o.nv;
    const float gain = gain_of(o, o.vertices + pixel * o.nv, w);
    for (int k = 0; k < o.nv; ++k) w[k] *= gain;
  }
}

template <int NV>
void finish_fast(const ss::Finish& f) {
  constexpr size_t stride = NV * W;
  constexpr size_t ahead = 8;
  for (size_t pixel = f.begin; pixel < f.end; ++pixel) {
    float* u = f.unary + pixel * stride;
    Row<NV> x = get<NV>(u);
    for (int t = 0; t < f.terms; ++t) {
      const ss::FinishTerm& o = f.term[t];
      const uint32_t* from = o.vertices + pixel * o.nv;
      const float* w = o.weights + pixel * o.nv;
      if (pixel + ahead < f.end)
        for (int k = 0; k < o.nv; ++k) __builtin_prefetch(o.values + size_t{from[ahead * o.nv + k]} * stride);
      const float gain = gain_of(o, from, w);
      Row<NV> message{};
      for (int k = 0; k < o.nv; ++k) {
        const Row<NV> r = get<NV>(o.values + size_t{from[k]} * stride);
        for (int i = 0; i < NV; ++i) message.v[i] += w[k] * r.v[i];
      }
      for (int i = 0; i < NV; ++i) x.v[i] += gain * message.v[i];
    }
    soft_max(x.v, NV);
    put<NV>(u, x);
  }
}

void finish_any(const ss::Finish& f) {
  const size_t stride = f.row;
  for (size_t pixel = f.begin; pixel < f.end; ++pixel) {
    float* x = f.unary + pixel * stride;
    for (int t = 0; t < f.terms; ++t) {
      const ss::FinishTerm& o = f.term[t];
      const uint32_t* from = o.vertices + pixel * o.nv;
      const float* w = o.weights + pixel * o.nv;
      const float gain = gain_of(o, from, w);
      for (int k = 0; k < o.nv; ++k) {
        const float* r = o.values + size_t{from[k]} * stride;
        const float by = w[k] * gain;
        for (size_t i = 0; i < stride; i += W) store(x + i, load(x + i) + by * load(r + i));
      }
    }
    soft_max_any(x, stride);
  }
}

void finish(const ss::Finish& f) {
  switch (f.row / W) {
    case 1: return finish_fast<1>(f);
    case 2: return finish_fast<2>(f);
    case 3: return finish_fast<3>(f);
    default: return finish_any(f);
  }
}

}  // namespace
