// Soft-max of a row that is in registers.
#pragma once

#include "simd.h"

namespace {

// Without the row's maximum: the caller has shifted log p so that the largest is about 0. The exponentials then neither
// overflow nor vanish unless what was added is huge; then the slow way.
template <int MOST>
inline void soft_max(VF (&x)[MOST], int vectors) {
  VF e[MOST], sum = e[0] = vexp(vmin(x[0], all(80.0f)));
  for (int i = 1; i < vectors; ++i) {
    e[i] = vexp(vmin(x[i], all(80.0f)));
    sum += e[i];
  }
  float total = fold(sum)[0];
  if (__builtin_expect(!(total > 1e-12f && total < 1e30f), 0)) {
    VF most = x[0];
    for (int i = 1; i < vectors; ++i) most = vmax(most, x[i]);
    most = fold_max(most);
    sum = VF{};
    for (int i = 0; i < vectors; ++i) {
      e[i] = vexp(x[i] - most);
      sum += e[i];
    }
    total = fold(sum)[0];
  }
  const float scale = 1.0f / total;
  for (int i = 0; i < vectors; ++i) x[i] = e[i] * scale;
}

}  // namespace
