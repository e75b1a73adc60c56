#include "blend.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <vector>

namespace {

// Keys' cubic with a = -0.75, as cv2.INTER_CUBIC: pixel centres line up, borders are repeated.
struct Cubic {
  std::vector<int32_t> at;
  std::vector<float> weight;

  Cubic(int from, int to) : at(static_cast<size_t>(to) * 4), weight(static_cast<size_t>(to) * 4) {
    constexpr double a = -0.75;
    for (int x = 0; x < to; ++x) {
      const double place = (x + 0.5) * from / to - 0.5;
      const int first = static_cast<int>(std::floor(place));
      const double t = place - first, s = 1.0 - t;
      const double w0 = a * t * s * s, w3 = a * s * t * t;
      const double w1 = ((a + 2) * t - (a + 3)) * t * t + 1;
      const double w[4] = {w0, w1, 1.0 - w0 - w1 - w3, w3};
      for (int k = 0; k < 4; ++k) {
        at[static_cast<size_t>(x) * 4 + k] = std::clamp(first + k - 1, 0, from - 1);
        weight[static_cast<size_t>(x) * 4 + k] = static_cast<float>(w[k]);
      }
    }
  }
};

void (*best())(const blend::Work&) {
#if defined(SS_HAVE_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return blend::rows_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return blend::rows_avx2;
#endif
  return blend::rows_portable;
}

}  // namespace

extern "C" {

int32_t ss_blend_row(int32_t classes) { return (classes + blend::kRow - 1) / blend::kRow * blend::kRow; }

int32_t ss_blend_run(const ss_blend_job* job) {
  const int classes = job->classes, fh = job->from_height, fw = job->from_width, h = job->height, w = job->width;
  if (classes < 1 || classes > 255 || fh < 1 || fw < 1 || h < 2 || w < 2) return 1;
  try {
    const int row = ss_blend_row(classes);
    const size_t pixels = static_cast<size_t>(fh) * fw;
    std::vector<float> from(pixels * row), line(static_cast<size_t>(fw) * row);
    std::vector<float> out(static_cast<size_t>(blend::kRow) * row), even(row), mix(static_cast<size_t>(w) * 6);
    std::vector<int32_t> near(static_cast<size_t>(w) * 2);
    std::fill(even.begin(), even.begin() + classes, job->soften / static_cast<float>(classes));
    blend::Work work{job,         row,        {},          {}, from.data(), line.data(),
                     out.data(), even.data(), near.data(), mix.data()};
    const bool scales = fh != h || fw != w;
    const Cubic down(scales ? fh : 1, scales ? h : 1), across(scales ? fw : 1, scales ? w : 1);
    if (scales) {
      work.down = {down.at.data(), down.weight.data()};
      work.across = {across.at.data(), across.weight.data()};
    }
    best()(work);
  } catch (const std::bad_alloc&) {
    return 2;
  }
  return 0;
}

}  // extern "C"
