// One pass over pixels: slice every term, soft-max, splat again for the next iteration.
#pragma once

#include "blur.h"
#include "kernels.h"
#include "simd.h"
#include "soft_max.h"

namespace {

constexpr size_t kPixelsAhead = 24;
constexpr size_t kRowsAhead = 16;      // visits; their simplex' rows
static_assert(kPixelsAhead <= ss::kListPad && kRowsAhead <= ss::kListPad, "the list's end is read ahead");

// The visits of this pass: all, or those that do not rest. Rests get shorter by one.
inline size_t list_visits(const ss::Pass& p, bool all) {
  size_t n = 0;
  constexpr uint64_t ones = 0x0101010101010101ull, tops = ones << 7;
  for (size_t at = p.begin; at < p.end;) {
    uint64_t eight;  // most pixels rest, and so do most of eight neighbours
    if (!all && at + 8 <= p.end && (std::memcpy(&eight, p.rest + at, 8), !((eight - ones) & ~eight & tops))) {
      eight -= ones;
      std::memcpy(p.rest + at, &eight, 8);
      at += 8;
      continue;
    }
    for (const size_t stop = at + 8 < p.end ? at + 8 : p.end; at < stop; ++at) {
      const uint8_t left = p.rest[at];
      p.list[n] = static_cast<uint32_t>(at);
      n += all || left == 0;
      p.rest[at] = static_cast<uint8_t>(left - (left != 0));
    }
  }
  const uint32_t last = n ? p.list[n - 1] : 0;
  for (size_t i = 0; i < ss::kListPad; ++i) p.list[n + i] = last;
  return n;
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

// NV: vectors of a row. MAIN: vertices of the main term. OTHER: vertices of the only other term, or 0 for any number.
// MIDDLE: known to be neither the first pass nor the last. Everything used inside the loops is a local copy: the compiler must
// think that a store to a row may change `pass`.
template <int NV, int MAIN, int OTHER, bool GAIN, bool MIDDLE>
void pass_fast(const ss::Pass& pass) {
  constexpr size_t stride = NV * W;
  constexpr int most_terms = OTHER ? 2 : ss::kFewTerms;
  const ss::Pass p = pass;
  const ss::Visits v = p.visits;
  const ss::PassTerm m = p.term[0];
  ss::PassTerm others[most_terms];
  uint32_t below[most_terms], shift[most_terms];
  const int terms = OTHER ? 2 : p.terms;
  for (int t = 0; t < terms; ++t) {
    others[t] = p.term[t];
    below[t] = p.shared_below[t];
    shift[t] = p.shared_shift[t];
  }
  const bool slice = MIDDLE || p.slice, splat = MIDDLE || p.splat, middle = MIDDLE || (slice && splat);
  const bool scattered = OTHER && others[1].scattered;
  const VF still = all(p.still), settled = all(p.settled);
  const uint32_t* list = p.list;
  const size_t count = list_visits(p, !middle);
  uint32_t announced = ss::kNone;
  for (size_t n = 0; n < count;) {
    const uint32_t simplex = v.simplex[list[n]];
    const uint32_t* vertex = m.vertices + size_t{simplex} * MAIN;
    Row<NV> rows[MAIN], sums[MAIN];
    for (int k = 0; k < MAIN; ++k) {
      rows[k] = slice ? get<NV>(m.values + size_t{vertex[k]} * stride) : Row<NV>{};
      sums[k] = Row<NV>{};
    }
    bool moved = false;
    do {
      const size_t at = list[n];
      const uint32_t pixel = v.pixel[at];
      // Pixels of a simplex lie apart, and its rows anywhere: the machine's own prefetch does not see them.
      {
        const size_t soon = v.pixel[list[n + kPixelsAhead]];
        for (size_t i = 0; i < stride; i += 16) {
          __builtin_prefetch(p.unary + soon * stride + i);
          if (splat) __builtin_prefetch(p.added + soon * stride + i, 1);
        }
        if (OTHER) __builtin_prefetch(others[1].places + soon * OTHER);
        const uint32_t next = v.simplex[list[n + kRowsAhead]];
        if (next != announced) {
          announced = next;
          const uint32_t* to = m.vertices + size_t{next} * MAIN;
          for (int k = 0; k < MAIN; ++k) {
            for (size_t i = 0; i < stride; i += 16) {
              if (slice) __builtin_prefetch(m.values + size_t{to[k]} * stride + i);
              if (splat) __builtin_prefetch(m.sums + size_t{to[k]} * stride + i, 1);
            }
          }
        }
        if (scattered) {
          const ss::Place* place = others[1].places + size_t{v.pixel[list[n + kPixelsAhead / 2]]} * OTHER;
          for (int k = 0; k < OTHER; ++k) {
            const size_t r = place[k].point;
            for (size_t i = 0; i < stride; i += 16) {
              if (slice) __builtin_prefetch(others[1].values + r * stride + i);
              if (splat) __builtin_prefetch(others[1].sums + r * stride + i, 1);
            }
          }
        }
      }
      ++n;
      const float* w = m.weights + at * MAIN;
      float* u = p.unary + pixel * stride;
      Row<NV> x = get<NV>(u);
      if (slice) {
        // Three sums that need not wait for one another.
        Row<NV> even{}, odd{};
        for (int k = 0; k < MAIN; k += 2)
          for (int i = 0; i < NV; ++i) even.v[i] += w[k] * rows[k].v[i];
        for (int k = 1; k < MAIN; k += 2)
          for (int i = 0; i < NV; ++i) odd.v[i] += w[k] * rows[k].v[i];
        const float gain = GAIN && m.gain_out ? m.gain_out[pixel] : 1.0f;
        for (int t = 1; t < terms; ++t) {
          const ss::PassTerm& o = others[t];
          const int nv = OTHER ? OTHER : o.nv;
          const ss::Place* from = o.places + size_t{pixel} * nv;
          const float other_gain = GAIN && o.gain_out ? o.gain_out[pixel] : 1.0f;
          for (int k = 0; k < nv; ++k) {
            const Row<NV> r = get<NV>(o.values + size_t{from[k].point} * stride);
            const float by = GAIN ? from[k].weight * other_gain : from[k].weight;
            for (int i = 0; i < NV; ++i) x.v[i] += by * r.v[i];
          }
        }
        for (int i = 0; i < NV; ++i) x.v[i] += GAIN ? (even.v[i] + odd.v[i]) * gain : even.v[i] + odd.v[i];
      }
      Row<NV> q = x;
      if (MIDDLE || !p.plain) soft_max(q.v, NV);
      if (!splat) {
        put<NV>(u, q);
        continue;
      }
      float* added = p.added + pixel * stride;
      if (middle) {
        VI far{}, near{};
        const Row<NV> last = get<NV>(added);
        Row<NV> change;
        for (int i = 0; i < NV; ++i) {
          change.v[i] = q.v[i] - last.v[i];
          far |= (VI)(change.v[i] > still) | (VI)(-change.v[i] > still);
          near |= (VI)(change.v[i] > settled) | (VI)(-change.v[i] > settled);
        }
        if (!any_lane(far)) {
          p.rest[at] = any_lane(near) ? p.rest_passes : p.settled_passes;
          continue;
        }
        put<NV>(added, q);
        q = change;
      } else {
        put<NV>(added, q);
      }
      moved = true;
      const float gain = GAIN && m.gain_in ? m.gain_in[pixel] : 1.0f;
      for (int k = 0; k < MAIN; ++k)
        for (int i = 0; i < NV; ++i) sums[k].v[i] += (GAIN ? w[k] * gain : w[k]) * q.v[i];
      for (int t = 1; t < terms; ++t) {
        const ss::PassTerm& o = others[t];
        const int nv = OTHER ? OTHER : o.nv;
        const ss::Place* to = o.places + size_t{pixel} * nv;
        const float other_gain = GAIN && o.gain_in ? o.gain_in[pixel] : 1.0f;
        for (int k = 0; k < nv; ++k) {
          const uint32_t point = to[k].point;
          float* s = o.sums + size_t{point + (point < below[t] ? shift[t] : 0u)} * stride;
          const float by = GAIN ? to[k].weight * other_gain : to[k].weight;
          Row<NV> r = get<NV>(s);
          for (int i = 0; i < NV; ++i) r.v[i] += by * q.v[i];
          put<NV>(s, r);
        }
      }
    } while (n < count && v.simplex[list[n]] == simplex);
    if (!moved) continue;
    for (int k = 0; k < MAIN; ++k) {
      float* s = m.sums + size_t{vertex[k] + (vertex[k] < below[0] ? shift[0] : 0u)} * stride;
      Row<NV> r = get<NV>(s);
      for (int i = 0; i < NV; ++i) r.v[i] += sums[k].v[i];
      put<NV>(s, r);
    }
  }
}

// Any number of classes, terms and dimensions: rows stay in memory.
void pass_any(const ss::Pass& p) {
  const size_t stride = p.row;
  const bool middle = p.slice && p.splat;
  const size_t count = list_visits(p, !middle);
  float* x = p.scratch;
  float* change = p.scratch + stride;
  for (size_t n = 0; n < count; ++n) {
    const size_t at = p.list[n];
    const uint32_t pixel = p.visits.pixel[at], simplex = p.visits.simplex[at];
    const auto each_vertex = [&](int t, auto&& act) {
      const ss::PassTerm& o = p.term[t];
      const ss::Place* place = o.places + size_t{pixel} * o.nv;
      const uint32_t* vertex = o.vertices + size_t{simplex} * o.nv;
      for (int k = 0; k < o.nv; ++k)
        act(t ? place[k].point : vertex[k], t ? place[k].weight : o.weights[at * o.nv + k]);
    };
    float* u = p.unary + pixel * stride;
    std::memcpy(x, u, stride * sizeof(float));
    for (int t = 0; t < p.terms && p.slice; ++t) {
      const ss::PassTerm& o = p.term[t];
      const float gain = o.gain_out ? o.gain_out[pixel] : 1.0f;
      each_vertex(t, [&](uint32_t point, float weight) {
        const float* r = o.values + size_t{point} * stride;
        for (size_t i = 0; i < stride; i += W) store(x + i, load(x + i) + weight * gain * load(r + i));
      });
    }
    if (!p.plain) soft_max_any(x, stride);
    if (!p.splat) {
      std::memcpy(u, x, stride * sizeof(float));
      continue;
    }
    float* added = p.added + pixel * stride;
    VI far{}, near{};
    for (size_t i = 0; i < stride; i += W) {
      const VF by = middle ? load(x + i) - load(added + i) : load(x + i);
      far |= (VI)(by > p.still) | (VI)(-by > p.still);
      near |= (VI)(by > p.settled) | (VI)(-by > p.settled);
      store(change + i, by);
    }
    if (middle && !any_lane(far)) {
      p.rest[at] = any_lane(near) ? p.rest_passes : p.settled_passes;
      continue;
    }
    std::memcpy(added, x, stride * sizeof(float));
    for (int t = 0; t < p.terms; ++t) {
      const ss::PassTerm& o = p.term[t];
      const float gain = o.gain_in ? o.gain_in[pixel] : 1.0f;
      each_vertex(t, [&](uint32_t point, float weight) {
        float* s = o.sums + size_t{point + (point < p.shared_below[t] ? p.shared_shift[t] : 0u)} * stride;
        for (size_t i = 0; i < stride; i += W) store(s + i, load(s + i) + weight * gain * load(change + i));
      });
    }
  }
}

template <int NV>
bool pass_of(const ss::Pass& p, bool gain) {
  if (p.terms > ss::kFewTerms) return false;
  const int main = p.term[0].nv;
  const bool smooth = p.terms == 2 && p.term[1].nv == 3;
  if (gain) {
    if (main == 6) return pass_fast<NV, 6, 0, true, false>(p), true;
    return false;
  }
  const bool middle = p.slice && p.splat && !p.plain;
  if (main == 6 && smooth && middle) return pass_fast<NV, 6, 3, false, true>(p), true;
  if (main == 6 && smooth) return pass_fast<NV, 6, 3, false, false>(p), true;
  if (main == 6) return pass_fast<NV, 6, 0, false, false>(p), true;
  if (main == 4) return pass_fast<NV, 4, 0, false, false>(p), true;
  if (main == 3) return pass_fast<NV, 3, 0, false, false>(p), true;
  return false;
}

void pass(const ss::Pass& p) {
  bool gain = false;
  for (int t = 0; t < p.terms; ++t) gain = gain || p.term[t].gain_in || p.term[t].gain_out;
  bool done = false;
  switch (p.row / W) {
    case 1: done = pass_of<1>(p, gain); break;
    case 2: done = pass_of<2>(p, gain); break;
    case 3: done = pass_of<3>(p, gain); break;
    default: break;
  }
  if (!done) pass_any(p);
}

}  // namespace
