#include "grid.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "lattice.h"

namespace ss {
namespace {

template <class T>
void planes_of(const T* image, const ss_crf_job& job, const Grid& grid, float* planes) {
  const int channels = job.channels;
  const size_t line = size_t(job.width) * channels;
  for (int y = 0; y < grid.height; ++y) {
    const int y0 = y * grid.stride, y1 = std::min(y0 + grid.stride, job.height);
    for (int x = 0; x < grid.width; ++x) {
      const int x0 = x * grid.stride, x1 = std::min(x0 + grid.stride, job.width);
      float* to = planes + size_t(y) * grid.width + x;
      if (grid.stride == 1) {
        for (int c = 0; c < channels; ++c) to[c * grid.padded] = float(image[y0 * line + size_t(x0) * channels + c]);
        continue;
      }
      const float share = 1.0f / float((y1 - y0) * (x1 - x0));
      for (int c = 0; c < channels; ++c) {
        float sum = 0.0f;
        for (int v = y0; v < y1; ++v)
          for (int u = x0; u < x1; ++u) sum += float(image[v * line + size_t(u) * channels + c]);
        to[c * grid.padded] = sum * share;
      }
    }
  }
  for (int c = 0; c < channels; ++c)
    for (size_t i = grid.pixels; i < grid.padded; ++i) planes[c * grid.padded + i] = planes[c * grid.padded];
}

void refuse_nan(bool fine, const char* what) {
  if (!fine) throw Refusal(SS_CRF_NAN, std::string(what) + " holds NaN or infinity");
}

// Where a grid's pixel lies in an axis of `from` samples: two neighbours and the weight of the second.
struct Tap {
  int first, second;
  float weight;
};

Tap tap(int at, int stride, int full, int from, bool align_corners) {
  const double centre = (at + 0.5) * stride - 0.5;
  double place = align_corners ? (full > 1 ? centre * (from - 1) / (full - 1) : 0.0)
                               : (centre + 0.5) * from / full - 0.5;
  place = std::min(std::max(place, 0.0), double(from - 1));
  const int first = int(place);
  return {first, std::min(first + 1, from - 1), float(place - first)};
}

// The largest of a row becomes 0. False where a row has no finite largest.
bool level(float* r, int lanes) {
  float most = r[0];
  for (int c = 1; c < lanes; ++c) most = r[c] > most ? r[c] : most;
  if (!(most > -3e38f && most < 3e38f)) return false;
  for (int c = 0; c < lanes; ++c) {
    const float v = r[c] - most;
    r[c] = v > -1e4f ? v : -1e4f;
  }
  return true;
}

}  // namespace

void image_planes(const ss_crf_job& job, const Grid& grid, Buffer<float>& planes) {
  if (job.image_type == SS_CRF_IMAGE_NONE) return;
  planes.need(grid.padded * job.channels);
  if (job.image_type == SS_CRF_IMAGE_U8) {
    planes_of(static_cast<const uint8_t*>(job.image), job, grid, planes.data());
  } else {
    planes_of(static_cast<const float*>(job.image), job, grid, planes.data());
  }
}

int term_features(const ss_crf_job& job, const ss_crf_term& term, const Grid& grid, const float* planes,
                  Buffer<float>& features) {
  const bool looks = term.features == nullptr && term.sigma_channels != nullptr;
  const int dims = term.features ? term.dims : 2 + (looks ? job.channels : 0);
  features.need(grid.padded * dims);
  if (term.features) {
    float nan = 0.0f;
    for (int k = 0; k < dims; ++k) {
      float* to = features.data() + k * grid.padded;
      const float* from = term.features + k * grid.pixels;
      for (size_t i = 0; i < grid.pixels; ++i) {
        to[i] = from[i];
        nan += from[i] * 0.0f;
      }
      for (size_t i = grid.pixels; i < grid.padded; ++i) to[i] = to[0];
    }
    refuse_nan(nan == 0.0f, "features");
    return dims;
  }
  float* fx = features.data();
  float* fy = fx + grid.padded;
  const float shift = 0.5f * float(grid.stride - 1);
  size_t i = 0;
  for (int y = 0; y < grid.height; ++y) {
    const float v = (float(y * grid.stride) + shift) / term.sigma_y;
    for (int x = 0; x < grid.width; ++x, ++i) {
      fx[i] = (float(x * grid.stride) + shift) / term.sigma_x;
      fy[i] = v;
    }
  }
  for (; i < grid.padded; ++i) fx[i] = fx[0], fy[i] = fy[0];
  float nan = 0.0f;
  for (int c = 0; c < dims - 2; ++c) {
    float* to = features.data() + (2 + c) * grid.padded;
    const float* from = planes + c * grid.padded;
    const float sigma = term.sigma_channels[c];
    for (size_t k = 0; k < grid.padded; ++k) {
      to[k] = from[k] / sigma;
      nan += to[k] * 0.0f;
    }
  }
  refuse_nan(nan == 0.0f, "image");
  return dims;
}

void unary_rows(const ss_crf_job& job, const Kernels& kernels, Team& team, const Grid& grid, int row,
                Buffer<float>& source, bool& source_ready, float* rows) {
  const int h = job.logits_height, w = job.logits_width, lanes = job.classes;
  const size_t from_pixels = size_t(h) * w;
  constexpr int max_parts = 2 * kMaxParts;
  const int parts = std::min(2 * team.size(), max_parts);
  bool fine[max_parts];
  const bool direct = h == grid.height && w == grid.width;
  if (!direct) source.need(from_pixels * row);
  if (direct || !source_ready) {
    float* to = direct ? rows : source.data();
    team.each(parts, [&](int part) {
      fine[part] = kernels.rows_from_planes(job.logits, from_pixels, lanes, from_pixels * part / parts,
                                            from_pixels * (part + 1) / parts, to, row, -1e30f);
    });
    for (int part = 0; part < parts; ++part) refuse_nan(fine[part], "unary");
    source_ready = !direct;
  }
  const bool box = !direct && h == job.height && w == job.width;
  const bool corners = job.flags & SS_CRF_ALIGN_CORNERS;
  team.each(parts, [&](int part) {
    fine[part] = true;
    const int begin = int(size_t(grid.height) * part / parts), end = int(size_t(grid.height) * (part + 1) / parts);
    for (int y = begin; y < end; ++y) {
      const Tap ty = tap(y, grid.stride, job.height, h, corners);
      for (int x = 0; x < grid.width; ++x) {
        float* to = rows + (size_t(y) * grid.width + x) * row;
        if (box) {
          const int y1 = std::min((y + 1) * grid.stride, h), x1 = std::min((x + 1) * grid.stride, w);
          const float share = 1.0f / float((y1 - y * grid.stride) * (x1 - x * grid.stride));
          for (int c = 0; c < row; ++c) to[c] = 0.0f;
          for (int v = y * grid.stride; v < y1; ++v) {
            for (int u = x * grid.stride; u < x1; ++u) {
              const float* from = source.data() + (size_t(v) * w + u) * row;
              for (int c = 0; c < row; ++c) to[c] += share * from[c];
            }
          }
        } else if (!direct) {
          const Tap tx = tap(x, grid.stride, job.width, w, corners);
          const float* a = source.data() + (size_t(ty.first) * w + tx.first) * row;
          const float* b = source.data() + (size_t(ty.first) * w + tx.second) * row;
          const float* c = source.data() + (size_t(ty.second) * w + tx.first) * row;
          const float* d = source.data() + (size_t(ty.second) * w + tx.second) * row;
          const float wd = ty.weight * tx.weight, wc = ty.weight - wd, wb = tx.weight - wd;
          const float wa = 1.0f - wb - wc - wd;
          for (int l = 0; l < row; ++l) to[l] = wa * a[l] + wb * b[l] + wc * c[l] + wd * d[l];
        }
        fine[part] = level(to, lanes) && fine[part];
      }
    }
  });
  for (int part = 0; part < parts; ++part) refuse_nan(fine[part], "unary");
}

}  // namespace ss
