// Feature vectors to lattice coordinates, W pixels at a time.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace {

// The simplex of the permutohedral lattice that a point lies in: its remainder-0 vertex as a packed key, the order of
// the residuals as packed ranks, and the barycentric weights (Adams et al. 2010, sections 3.1 and 3.2).
template <int D>
void embed_run(const ss::EmbedPlan& plan, const float* const* features, size_t count, float* bary, uint64_t* key,
               uint64_t* ranks, uint8_t* turns) {
  const int d = D ? D : plan.dims;
  constexpr int N = (D ? D : ss::kMaxDims) + 1;
  const float down = 1.0f / static_cast<float>(d + 1);
  const float up = static_cast<float>(d + 1);
  for (size_t at = 0; at < count; at += W) {
    VF elevated[N], corner[N], rest[N];
    VF sum = all(0.0f);
    for (int j = d; j > 0; --j) {
      const VF cf = load(features[j - 1] + at) * plan.scale[j - 1];
      elevated[j] = sum - static_cast<float>(j) * cf;
      sum += cf;
    }
    elevated[0] = sum;

    VF steps = all(0.0f);
    for (int i = 0; i <= d; ++i) {
      const VF rounded = vround(elevated[i] * down);
      corner[i] = rounded * up;
      rest[i] = elevated[i] - corner[i];
      steps += rounded;
    }

    VI rank[N];
    for (int i = 0; i <= d; ++i) rank[i] = all(0);
    for (int i = 0; i < d; ++i) {
      for (int j = i + 1; j <= d; ++j) {
        const VI less = rest[i] < rest[j];  // -1 where true
        rank[i] -= less;
        rank[j] += less + 1;
      }
    }
    const VI off = __builtin_convertvector(steps, VI);
    for (int i = 0; i <= d; ++i) {
      rank[i] += off;
      const VI low = rank[i] < 0;
      const VI high = rank[i] > d;
      const VI shift = high - low;  // +1 below, -1 above
      rank[i] += shift * (d + 1);
      corner[i] += __builtin_convertvector(shift, VF) * up;
      rest[i] = (elevated[i] - corner[i]) * down;
    }

    // Descending order of the residuals gives the weights; which coordinate it was only matters for the key.
    for (int i = 0; i < d; ++i) {
      for (int j = 0; j < d - i; ++j) {
        const VF big = vmax(rest[j], rest[j + 1]);
        rest[j + 1] = vmin(rest[j], rest[j + 1]);
        rest[j] = big;
      }
    }
    float weights[N][W];
    store(weights[0], 1.0f + rest[d] - rest[0]);
    for (int k = 1; k <= d; ++k) store(weights[k], rest[d - k] - rest[d + 1 - k]);
    for (int l = 0; l < W; ++l)
      for (int k = 0; k <= d; ++k) bary[(at + l) * (d + 1) + k] = weights[k][l];

    uint64_t code[W] = {};
    for (int i = 0; i < d; ++i) {
      int32_t one[W];
      std::memcpy(one, &rank[i], sizeof one);
      for (int l = 0; l < W; ++l) code[l] += static_cast<uint64_t>(one[l]) * plan.rank_unit[i];
      if (!D && turns)
        for (int l = 0; l < W; ++l) turns[(at + l) * d + i] = static_cast<uint8_t>(one[l]);
    }
    std::memcpy(ranks + at, code, sizeof code);

    uint64_t packed[W] = {};
    for (int i = 0; i < d; ++i) {
      int32_t cell[W];
      const VI whole = __builtin_convertvector(corner[i], VI) - plan.low[i];
      std::memcpy(cell, &whole, sizeof whole);
      const uint64_t unit = plan.unit[i];
      for (int l = 0; l < W; ++l) packed[l] += static_cast<uint64_t>(static_cast<int64_t>(cell[l])) * unit;
    }
    std::memcpy(key + at, packed, sizeof packed);
  }
}

void embed(const ss::EmbedPlan& plan, const float* const* features, size_t count, float* bary, uint64_t* key,
           uint64_t* ranks, uint8_t* turns) {
  switch (plan.dims) {
    case 2: return embed_run<2>(plan, features, count, bary, key, ranks, turns);
    case 3: return embed_run<3>(plan, features, count, bary, key, ranks, turns);
    case 5: return embed_run<5>(plan, features, count, bary, key, ranks, turns);
    default: return embed_run<0>(plan, features, count, bary, key, ranks, turns);
  }
}

}  // namespace
