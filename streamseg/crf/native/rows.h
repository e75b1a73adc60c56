// Between planes (class, pixel), which is how arrays come and go, and rows (pixel, class), which is how we work.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace {

// rows[pixel][c] = planes[c][pixel], the rest of a row `pad`. False if something is NaN.
bool rows_from_planes(const float* planes, size_t plane, int lanes, size_t begin, size_t end, float* rows, int row,
                      float pad) {
  VI bad{};
  size_t at = begin;
  for (; at + W <= end; at += W) {
    float* to = rows + at * row;
    for (int c = 0; c < lanes; ++c) {
      const VF v = load(planes + c * plane + at);
      bad |= (VI)(v != v);
      for (int l = 0; l < W; ++l) to[static_cast<size_t>(l) * row + c] = v[l];
    }
    for (int l = 0; l < W; ++l)
      for (int c = lanes; c < row; ++c) to[static_cast<size_t>(l) * row + c] = pad;
  }
  bool fine = true;
  for (; at < end; ++at) {
    for (int c = 0; c < row; ++c) {
      const float v = c < lanes ? planes[c * plane + at] : pad;
      fine = fine && v == v;
      rows[at * row + c] = v;
    }
  }
  for (int l = 0; l < W; ++l) fine = fine && !bad[l];
  return fine;
}

// Any of the three outputs may be null. Labels: the first of the largest.
void planes_from_rows(const float* rows, int row, int lanes, size_t plane, size_t begin, size_t end,
                      float* probabilities, float* logs, uint8_t* labels) {
  size_t at = begin;
  for (; at + W <= end; at += W) {
    const float* from = rows + at * row;
    VF most = all(-1.0f);
    VI best{};
    for (int c = 0; c < lanes; ++c) {
      VF v;
      for (int l = 0; l < W; ++l) v[l] = from[static_cast<size_t>(l) * row + c];
      if (probabilities) store(probabilities + c * plane + at, v);
      if (logs) store(logs + c * plane + at, vlog(vmax(v, all(8.7565108e-27f))));
      if (labels) {
        const VI more = v > most;
        most = vmax(v, most);
        best = more ? all(c) : best;
      }
    }
    if (labels)
      for (int l = 0; l < W; ++l) labels[at + l] = static_cast<uint8_t>(best[l]);
  }
  for (; at < end; ++at) {
    const float* from = rows + at * row;
    int best = 0;
    for (int c = 0; c < lanes; ++c) {
      if (probabilities) probabilities[c * plane + at] = from[c];
      if (logs) logs[c * plane + at] = vlog(vmax(all(from[c]), all(8.7565108e-27f)))[0];
      if (from[c] > from[best]) best = c;
    }
    if (labels) labels[at] = static_cast<uint8_t>(best);
  }
}

}  // namespace
