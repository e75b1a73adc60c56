// The blend itself. Compiled once per instruction set, with its own flags, SS_WIDTH and SS_BLEND_ROWS.
#include "../crf/native/rows.h"
#include "blend.h"

namespace {

constexpr float kNever = -1e30f;  // the score of lanes that are no class, and of what cannot be

// Where the pixels of line y were: neighbours, their weights, and how far the picture bears it out.
void look_back(const ss_blend_job& job, const ss_blend_past& past, int y, int32_t* near, float* mix) {
  const int width = job.width, height = job.height;
  const float right = static_cast<float>(width - 1), bottom = static_cast<float>(height - 1);
  const float* where = past.where + static_cast<size_t>(y) * width * 2;
  const uint8_t* now = job.grey + static_cast<size_t>(y) * width;
  for (int x = 0; x < width; ++x) {
    const float px = where[2 * x], py = where[2 * x + 1];
    const bool inside = px >= -0.5f && px < right + 0.5f && py >= -0.5f && py < bottom + 0.5f;
    const float cx = inside ? (px < 0.0f ? 0.0f : px > right ? right : px) : 0.0f;
    const float cy = inside ? (py < 0.0f ? 0.0f : py > bottom ? bottom : py) : 0.0f;
    const int ix = static_cast<int>(cx), iy = static_cast<int>(cy);
    const int left = ix < width - 1 ? ix : width - 2, top = iy < height - 1 ? iy : height - 2;
    near[x] = top * width + left;
    mix[x] = cx - static_cast<float>(left);
    mix[width + x] = cy - static_cast<float>(top);
    mix[2 * width + x] = inside ? past.weight : 0.0f;
  }
  for (int x = 0; x < width; ++x) {
    const uint8_t* g = past.grey + near[x];
    const float a = mix[x], b = mix[width + x];
    const float above = static_cast<float>(g[0]) + a * static_cast<float>(g[1] - g[0]);
    const float below = static_cast<float>(g[width]) + a * static_cast<float>(g[width + 1] - g[width]);
    const float was = above + b * (below - above);
    mix[2 * width + x] *= job.trust[__builtin_abs(now[x] - static_cast<int>(was + 0.5f))];
  }
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

// VECTORS: of a row, or 0 for any number.
template <int VECTORS>
void lines(const blend::Work& work) {
  const ss_blend_job& job = *work.job;
  const size_t row = static_cast<size_t>(work.row);
  const int vectors = VECTORS ? VECTORS : work.row / W, width = job.width;
  const float keep = 1.0f - job.soften;
  const size_t plane = static_cast<size_t>(job.height) * width, pixels = static_cast<size_t>(job.from_height) * job.from_width;
  rows_from_planes(job.scores, pixels, job.classes, 0, pixels, work.from, work.row, kNever, kNever);
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
        VF most = v[0], sum{};
        for (int i = 1; i < vectors; ++i) most = vmax(most, v[i]);
        most = fold_max(most);
        for (int i = 0; i < vectors; ++i) {
          v[i] = vexp(v[i] - most);
          sum += v[i];
        }
        const float scale = 1.0f / fold(sum)[0];
        for (int i = 0; i < vectors; ++i) v[i] *= scale;
        if (job.before && m1[2 * width + x] > 1e-3f)
          pull(v, vectors, row, *job.before, width, work.near[width + x], m1[x], m1[width + x], m1[2 * width + x]);
        float* to = job.rows + (static_cast<size_t>(y) * width + x) * row;
        for (int i = 0; i < vectors; ++i) {
          const VF p = v[i] * keep + load(work.even + i * W);
          const VF log = vlog(vmax(p, all(job.least)));
          store(to + i * W, job.log_rows ? log : p);
          store(work.out + l * row + i * W, log);
        }
      }
      if (!job.log_planes) continue;
      const size_t at = static_cast<size_t>(y) * width + x0;
      planes_from_rows(work.out, work.row, job.classes, plane, at, at + some, job.log_planes, nullptr, nullptr);
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
