// Between planes (class, pixel), which is how arrays come and go, and rows (pixel, class), which is how we work.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace {

// rows[pixel - begin][c] = planes[c][pixel], not below `least`, the rest of a row `pad`. False if something is NaN.
inline bool rows_from_planes(const float* planes, size_t plane, int lanes, size_t begin, size_t end, float* rows, int row,
                      float pad, float least) {
  VI bad{};
  size_t at = begin;
  for (; at + W <= end; at += W) {
    for (int c0 = 0; c0 < row; c0 += W) {
      VF block[W];
      for (int i = 0; i < W; ++i) {
        if (c0 + i >= lanes) {
          block[i] = all(pad);
          continue;
        }
        const VF v = load(planes + static_cast<size_t>(c0 + i) * plane + at);
        bad |= (VI)(v != v);
        block[i] = vmax(v, all(least));
      }
      transpose(block);
      for (int l = 0; l < W; ++l) store(rows + (at - begin + l) * row + c0, block[l]);
    }
  }
  bool fine = true;
  for (; at < end; ++at) {
    for (int c = 0; c < row; ++c) {
      const float v = c < lanes ? planes[c * plane + at] : pad;
      fine = fine && v == v;
      rows[(at - begin) * row + c] = c < lanes && v < least ? least : v;
    }
  }
  for (int l = 0; l < W; ++l) fine = fine && !bad[l];
  return fine;
}

// rows[0] is pixel `begin`. Any of the three outputs may be null. Labels: the first of the largest.
inline void planes_from_rows(const float* rows, int row, int lanes, size_t plane, size_t begin, size_t end,
                      float* probabilities, float* logs, uint8_t* labels) {
  const VF least = all(8.7565108e-27f);  // e^-60
  size_t at = begin;
  for (; at + W <= end; at += W) {
    VF most = all(-1.0f);
    VI best{};
    for (int c0 = 0; c0 < lanes; c0 += W) {
      VF block[W];
      for (int l = 0; l < W; ++l) block[l] = load(rows + (at - begin + l) * row + c0);
      transpose(block);
      for (int i = 0; i < W && c0 + i < lanes; ++i) {
        const VF v = block[i];
        const int c = c0 + i;
        if (probabilities) store(probabilities + c * plane + at, v);
        if (logs) store(logs + c * plane + at, vlog(vmax(v, least)));
        const VI more = v > most;
        most = vmax(v, most);
        best = more ? all(c) : best;
      }
    }
    if (labels)
      for (int l = 0; l < W; ++l) labels[at + l] = static_cast<uint8_t>(best[l]);
  }
  for (; at < end; ++at) {
    const float* from = rows + (at - begin) * row;
    int best = 0;
    for (int c = 0; c < lanes; ++c) {
      if (probabilities) probabilities[c * plane + at] = from[c];
      if (logs) logs[c * plane + at] = vlog(vmax(all(from[c]), least))[0];
      if (from[c] > from[best]) best = c;
    }
    if (labels) labels[at] = static_cast<uint8_t>(best);
  }
}

// Shifts each row so that its largest is 0 and none is below -1e4. False where a row has no finite largest.
inline bool peak_to_zero(float* rows, int row, size_t count) {
  bool fine = true;
  for (float* r = rows; r != rows + count * row; r += row) {
    VF most = load(r);
    for (int c = W; c < row; c += W) most = vmax(most, load(r + c));
    const float peak = fold_max(most)[0];
    fine = fine && peak > -1e29f && peak < 3e38f;
    for (int c = 0; c < row; c += W) store(r + c, vmax(load(r + c) - peak, all(-1e4f)));
  }
  return fine;
}

// Rows of log p of the grid's pixels [begin, end), shifted likewise. `out` is the first of them.
inline bool unary_rows(const ss::Resample& s, size_t begin, size_t end, float* out) {
  const size_t row = s.row;
  float* to = out;
  for (size_t y = begin / s.width, x = begin % s.width, at = begin; at < end; ++y, x = 0) {
    const ss::Tap ty = s.down[y];
    for (; x < size_t(s.width) && at < end; ++x, ++at, to += row) {
      const ss::Tap tx = s.across[x];
      if (s.box) {
        const float share = 1.0f / static_cast<float>((ty.last - ty.first) * (tx.last - tx.first));
        for (size_t c = 0; c < row; c += W) {
          VF sum{};
          for (int v = ty.first; v < ty.last; ++v)
            for (int u = tx.first; u < tx.last; ++u)
              sum += load(s.rows + (static_cast<size_t>(v) * s.from_width + u) * row + c);
          store(to + c, sum * share);
        }
      } else {
        const float* top = s.rows + static_cast<size_t>(ty.first) * s.from_width * row;
        const float* bottom = s.rows + static_cast<size_t>(ty.last) * s.from_width * row;
        const float wd = ty.weight * tx.weight, wc = ty.weight - wd, wb = tx.weight - wd, wa = 1.0f - wb - wc - wd;
        for (size_t c = 0; c < row; c += W) {
          const VF v = wa * load(top + tx.first * row + c) + wb * load(top + tx.last * row + c) +
                       wc * load(bottom + tx.first * row + c) + wd * load(bottom + tx.last * row + c);
          store(to + c, v);
        }
      }
    }
  }
  return peak_to_zero(out, s.row, end - begin);
}

}  // namespace
