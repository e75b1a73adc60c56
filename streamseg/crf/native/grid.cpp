#include "grid.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "lattice.h"

namespace ss {
namespace {

// Calls act(y, x_begin, x_end, place among [begin, end)) for each line's share of the pixels.
template <class Act>
void each_line(const Grid& grid, size_t begin, size_t end, const Act& act) {
  for (size_t at = begin; at < end;) {
    const size_t y = at / grid.width, x = at % grid.width, some = std::min(end - at, grid.width - x);
    act(int(y), int(x), int(x + some), at - begin);
    at += some;
  }
}

template <class T>
void planes_of(const T* image, const ss_crf_job& job, const Grid& grid, size_t begin, size_t end, float* planes,
               size_t pitch) {
  const int channels = job.channels;
  const size_t line = size_t(job.width) * channels;
  each_line(grid, begin, end, [&](int y, int x_begin, int x_end, size_t at) {
    const int y0 = y * grid.stride, y1 = std::min(y0 + grid.stride, job.height);
    if (grid.stride == 1) {
      const T* from = image + y0 * line + size_t(x_begin) * channels;
      for (int c = 0; c < channels; ++c)
        for (int i = 0; i < x_end - x_begin; ++i) planes[c * pitch + at + i] = float(from[size_t(i) * channels + c]);
      return;
    }
    for (int x = x_begin; x < x_end; ++x, ++at) {
      const int x0 = x * grid.stride, x1 = std::min(x0 + grid.stride, job.width);
      const float share = 1.0f / float((y1 - y0) * (x1 - x0));
      for (int c = 0; c < channels; ++c) {
        float sum = 0.0f;
        for (int v = y0; v < y1; ++v)
          for (int u = x0; u < x1; ++u) sum += float(image[v * line + size_t(u) * channels + c]);
        planes[c * pitch + at] = sum * share;
      }
    }
  });
}

// Least and most of every step-th value. Throws where one of them is NaN or infinite.
void span(const float* values, size_t count, size_t step, const char* what, float* least, float* most) {
  float low = values[0], high = values[0], nan[4] = {};
  for (size_t i = 0; i < count; ++i) {
    const float v = values[i * step];
    low = v < low ? v : low;
    high = v > high ? v : high;
    nan[i & 3] += v * 0.0f;  // four sums, so that one need not wait for the other
  }
  refuse_unless_finite(nan[0] + nan[1] + nan[2] + nan[3] == 0.0f, what);
  *least = low;
  *most = high;
}

Tap tap(int at, int stride, int full, int from, bool box) {
  if (box) return {at * stride, std::min((at + 1) * stride, from), 0.0f};
  const double centre = (at + 0.5) * stride - 0.5;
  const double place = std::min(std::max((centre + 0.5) * from / full - 0.5, 0.0), double(from - 1));
  const int first = int(place);
  return {first, std::min(first + 1, from - 1), float(place - first)};
}

}  // namespace

void refuse_unless_finite(bool fine, const char* what) {
  if (!fine) throw Refusal(SS_CRF_NAN, std::string(what) + " holds NaN or infinity");
}

void image_planes(const ss_crf_job& job, const Grid& grid, size_t begin, size_t end, float* planes, size_t pitch) {
  if (job.image_type == SS_CRF_IMAGE_U8) {
    planes_of(static_cast<const uint8_t*>(job.image), job, grid, begin, end, planes, pitch);
  } else if (job.image_type == SS_CRF_IMAGE_F32) {
    planes_of(static_cast<const float*>(job.image), job, grid, begin, end, planes, pitch);
  }
}

int term_dims(const ss_crf_job& job, const ss_crf_term& term) {
  if (term.features) return term.dims;
  return 2 + (term.sigma_channels ? job.channels : 0);
}

void term_features(const ss_crf_job& job, const ss_crf_term& term, const Grid& grid, const float* planes,
                   size_t begin, size_t end, float* features, size_t pitch) {
  const int dims = term_dims(job, term);
  const size_t count = end - begin;
  if (term.features) {
    for (int k = 0; k < dims; ++k)
      std::copy(term.features + k * grid.pixels + begin, term.features + k * grid.pixels + end, features + k * pitch);
    return;
  }
  const float shift = 0.5f * float(grid.stride - 1);
  each_line(grid, begin, end, [&](int y, int x_begin, int x_end, size_t at) {
    float* fx = features + at;
    for (int x = x_begin; x < x_end; ++x) *fx++ = (float(x * grid.stride) + shift) / term.sigma_x;
    float* fy = features + pitch + at;
    std::fill(fy, fy + (x_end - x_begin), (float(y * grid.stride) + shift) / term.sigma_y);
  });
  for (int c = 0; c < dims - 2; ++c) {
    const float sigma = term.sigma_channels[c];
    float* to = features + (2 + c) * pitch;
    const float* from = planes + c * pitch;
    for (size_t i = 0; i < count; ++i) to[i] = from[i] / sigma;
  }
}

void term_bounds(const ss_crf_job& job, const ss_crf_term& term, const Grid& grid, float* least, float* most) {
  const int dims = term_dims(job, term);
  const size_t pixels = size_t(job.height) * job.width;
  for (int k = 0; k < dims; ++k) {
    if (term.features) {
      span(term.features + k * grid.pixels, grid.pixels, 1, "features", &least[k], &most[k]);
    } else if (k < 2) {
      least[k] = 0.0f;
      most[k] = k ? float(job.height) / term.sigma_y : float(job.width) / term.sigma_x;
    } else {
      least[k] = 0.0f;
      most[k] = 255.0f;
      if (job.image_type == SS_CRF_IMAGE_F32)
        span(static_cast<const float*>(job.image) + k - 2, pixels, size_t(job.channels), "image", &least[k], &most[k]);
      least[k] /= term.sigma_channels[k - 2];
      most[k] /= term.sigma_channels[k - 2];
    }
  }
}

void Unary::prepare(const ss_crf_job& given, const Kernels& table, Team& team, int row, int finest_stride) {
  job = &given;
  kernels = &table;
  resample = {};
  const size_t pixels = size_t(given.logits_height) * given.logits_width;
  if (finest_stride == 1 && given.lattice_stride == 1 && pixels == size_t(given.height) * given.width) return;
  rows.need(pixels * row);
  constexpr int max_parts = 2 * kMaxParts;
  const int parts = std::min(2 * team.size(), max_parts);
  bool fine[max_parts];
  team.each(parts, [&](int part) {
    const size_t begin = pixels * part / parts, end = pixels * (part + 1) / parts;
    fine[part] = table.rows_from_planes(given.logits, pixels, given.classes, begin, end, rows.data() + begin * row, row,
                                        -1e30f, -1e30f);
  });
  for (int part = 0; part < parts; ++part) refuse_unless_finite(fine[part], "unary");
  resample.rows = rows.data();
}

void Unary::aim(const Grid& grid, int row) {
  const int h = job->logits_height, w = job->logits_width;
  const bool box = h == job->height && w == job->width;
  down.resize(grid.height);
  across.resize(grid.width);
  for (int y = 0; y < grid.height; ++y) down[y] = tap(y, grid.stride, job->height, h, box);
  for (int x = 0; x < grid.width; ++x) across[x] = tap(x, grid.stride, job->width, w, box);
  if (!box && h == grid.height && w == grid.width) {  // the network's own grid: nothing is between its samples
    for (int y = 0; y < h; ++y) down[y] = {y, y, 0.0f};
    for (int x = 0; x < w; ++x) across[x] = {x, x, 0.0f};
  }
  resample = {resample.rows, w, row, grid.width, box, down.data(), across.data()};
}

bool Unary::fill(size_t begin, size_t end, float* to) const {
  if (resample.rows) return kernels->unary_rows(resample, begin, end, to);
  const size_t pixels = size_t(job->height) * job->width;
  return kernels->rows_from_planes(job->logits, pixels, job->classes, begin, end, to, resample.row, -1e30f, -1e30f) &&
         kernels->peak_to_zero(to, resample.row, end - begin);
}

}  // namespace ss
