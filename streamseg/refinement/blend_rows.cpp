// The blend itself. Compiled once per instruction set, with its own flags, SS_WIDTH and SS_BLEND_ROWS.
#include "../crf/native/rows.h"
#include "../crf/native/soft_max.h"
#include "blend.h"

namespace {

constexpr float kNever = -1e30f;  // the score of lanes that are no class, and of what cannot be

// Every second lane of two vectors that follow one another, from lane F on.
template <int F>
inline VF every_second(VF a, VF b) {
#if SS_WIDTH == 16
  return __builtin_shufflevector(a, b, F, F + 2, F + 4, F + 6, F + 8, F + 10, F + 12, F + 14, F + 16, F + 18, F + 20,
                                 F + 22, F + 24, F + 26, F + 28, F + 30);
#elif SS_WIDTH == 8
  return __builtin_shufflevector(a, b, F, F + 2, F + 4, F + 6, F + 8, F + 10, F + 12, F + 14);
#else
  return __builtin_shufflevector(a, b, F, F + 2, F + 4, F + 6);
#endif
}

inline VI at_most(VI a, int most) { return a < most ? a : all(most); }

// Where W pixels were: neighbours, their weights, and how far the picture bears it out.
void look_back_at(const ss_blend_job& job, const ss_blend_past& past, const float* where, const uint8_t* now,
                  int32_t* near, float* across, float* down, float* weight) {
  const int width = job.width, height = job.height;
  const VF first = load(where), second = load(where + W);
  const VF px = every_second<0>(first, second), py = every_second<1>(first, second);
  const VF right = all(static_cast<float>(width - 1)), bottom = all(static_cast<float>(height - 1));
  const VI inside = (px >= -0.5f) & (px < right + 0.5f) & (py >= -0.5f) & (py < bottom + 0.5f);
  const VF cx = vmin(vmax(inside ? px : VF{}, VF{}), right), cy = vmin(vmax(inside ? py : VF{}, VF{}), bottom);
  const VI left = at_most(__builtin_convertvector(cx, VI), width - 2);
  const VI top = at_most(__builtin_convertvector(cy, VI), height - 2);
  const VI place = top * width + left;
  const VF a = cx - __builtin_convertvector(left, VF), b = cy - __builtin_convertvector(top, VF);
  std::memcpy(near, &place, sizeof place);
  store(across, a);
  store(down, b);

  int32_t corner[4][W], present[W];
  for (int l = 0; l < W; ++l) {
    const uint8_t* g = past.grey + near[l];
    corner[0][l] = g[0], corner[1][l] = g[1], corner[2][l] = g[width], corner[3][l] = g[width + 1];
    present[l] = now[l];
  }
  VF grey[4];
  for (int k = 0; k < 4; ++k) {
    VI of;
    std::memcpy(&of, corner[k], sizeof of);
    grey[k] = __builtin_convertvector(of, VF);
  }
  const VF above = grey[0] + a * (grey[1] - grey[0]), below = grey[2] + a * (grey[3] - grey[2]);
  VI is;
  std::memcpy(&is, present, sizeof is);
  const VI apart = is - __builtin_convertvector(above + b * (below - above) + 0.5f, VI);
  const VI error = apart < 0 ? -apart : apart;
  VF trusted;
  for (int l = 0; l < W; ++l) trusted[l] = job.trust[error[l]];
  store(weight, inside ? trusted * past.weight : VF{});
}

// The same of line y; a line's rest goes through a full vector of its own.
void look_back(const ss_blend_job& job, const ss_blend_past& past, int y, int32_t* near, float* mix) {
  const int width = job.width, whole = width / W * W, rest = width - whole;
  const float* where = past.where + static_cast<size_t>(y) * width * 2;
  const uint8_t* now = job.grey + static_cast<size_t>(y) * width;
  for (int x = 0; x < whole; x += W)
    look_back_at(job, past, where + 2 * x, now + x, near + x, mix + x, mix + width + x, mix + 2 * width + x);
  if (!rest) return;
  float last_where[2 * W] = {}, last_mix[3][W];
  uint8_t last_now[W] = {};
  int32_t last_near[W];
  std::memcpy(last_where, where + 2 * whole, sizeof(float) * 2 * rest);
  std::memcpy(last_now, now + whole, rest);
  look_back_at(job, past, last_where, last_now, last_near, last_mix[0], last_mix[1], last_mix[2]);
  std::memcpy(near + whole, last_near, sizeof(int32_t) * rest);
  for (int k = 0; k < 3; ++k) std::memcpy(mix + k * width + whole, last_mix[k], sizeof(float) * rest);
}

// row += weight * (what lay there - row)
inline void pull(VF* v, int vectors, size_t stride, const ss_blend_past& past, int width, int32_t near, float a,
                 float b, float weight) {
  const float* top = past.rows + static_cast<size_t>(near) * stride;
  const float* bottom = top + static_cast<size_t>(width) * stride;
  const float d = a * b * weight, c = b * weight - d, r = a * weight - d, o = weight - r - c - d;
  for (int i = 0; i < vectors; ++i) {
    const VF moved = o * load(top + i * W) + r * load(top + stride + i * W) + c * load(bottom + i * W) +
                     d * load(bottom + stride + i * W);
    v[i] += moved - weight * v[i];
  }
}

// Shifts each row so that its largest is 0, which soft_max() wants and scaling leaves near 0.
void from_the_largest(float* rows, size_t count, int row) {
  for (float* r = rows; r < rows + count * row; r += row) {
    VF most = load(r);
    for (int i = W; i < row; i += W) most = vmax(most, load(r + i));
    most = fold_max(most);
    for (int i = 0; i < row; i += W) store(r + i, vmax(load(r + i) - most, all(kNever)));
  }
}

// VECTORS: of a row, or 0 for any number.
template <int VECTORS>
void lines(const blend::Work& work) {
  const ss_blend_job& job = *work.job;
  const size_t row = static_cast<size_t>(work.row);
  const int vectors = VECTORS ? VECTORS : work.row / W, width = job.width;
  const float keep = 1.0f - job.soften;
  const size_t plane = static_cast<size_t>(job.height) * width, pixels = static_cast<size_t>(job.from_height) * job.from_width;
  rows_from_planes(job.logits, pixels, job.classes, 0, pixels, work.from, work.row, kNever, kNever);
  from_the_largest(work.from, pixels, work.row);
  VF v[VECTORS ? VECTORS : 256 / W];
  for (int y = 0; y < job.height; ++y) {
    const float* line = work.from + static_cast<size_t>(y) * width * row;
    if (work.down.at) {
      const int32_t* at = work.down.at + 4 * y;
      const float* by = work.down.weight + 4 * y;
      const size_t pitch = static_cast<size_t>(job.from_width) * row;
      for (size_t i = 0; i < pitch; i += W) {
        VF sum{};
        for (int k = 0; k < 4; ++k) sum += by[k] * load(work.from + static_cast<size_t>(at[k]) * pitch + i);
        store(work.line + i, sum);
      }
      line = work.line;
    }
    if (job.refined) look_back(job, *job.refined, y, work.near, work.mix);
    if (job.before) look_back(job, *job.before, y, work.near + width, work.mix + 3 * width);
    const float* m0 = work.mix;
    const float* m1 = work.mix + 3 * width;
    for (int x0 = 0; x0 < width; x0 += blend::kRow) {
      const int some = width - x0 < blend::kRow ? width - x0 : blend::kRow;
      for (int l = 0; l < some; ++l) {
        const int x = x0 + l;
        if (work.across.at) {
          const int32_t* at = work.across.at + 4 * x;
          const float* by = work.across.weight + 4 * x;
          for (int i = 0; i < vectors; ++i) {
            v[i] = by[0] * load(line + at[0] * row + i * W) + by[1] * load(line + at[1] * row + i * W) +
                   by[2] * load(line + at[2] * row + i * W) + by[3] * load(line + at[3] * row + i * W);
          }
        } else {
          for (int i = 0; i < vectors; ++i) v[i] = load(line + x * row + i * W);
        }
        if (job.refined && m0[2 * width + x] > 1e-3f)
          pull(v, vectors, row, *job.refined, width, work.near[x], m0[x], m0[width + x], m0[2 * width + x]);
        soft_max(v, vectors);
        if (job.before && m1[2 * width + x] > 1e-3f)
          pull(v, vectors, row, *job.before, width, work.near[width + x], m1[x], m1[width + x], m1[2 * width + x]);
        float* to = job.rows + (static_cast<size_t>(y) * width + x) * row;
        for (int i = 0; i < vectors; ++i) {
          const VF p = v[i] * keep + load(work.even + i * W), seen = vmax(p, all(job.least));
          store(to + i * W, job.log_rows ? vlog(seen) : p);
          store(work.out + l * row + i * W, seen);
        }
      }
      if (!job.log_planes) continue;
      const size_t at = static_cast<size_t>(y) * width + x0;
      planes_from_rows(work.out, work.row, job.classes, plane, at, at + some, nullptr, job.log_planes, nullptr);
    }
  }
}

}  // namespace

namespace blend {

void SS_BLEND_ROWS(const Work& work) {
  switch (work.row / W) {
    case 1: return lines<1>(work);
    case 2: return lines<2>(work);
    case 4: return lines<4>(work);
    default: return lines<0>(work);
  }
}

}  // namespace blend
