// Pictures, features and logits on the grid of every stride-th pixel.
#pragma once

#include <vector>

#include "buffer.h"
#include "kernels.h"
#include "streamseg_crf.h"
#include "team.h"

namespace ss {

struct Grid {
  int stride, height, width;
  size_t pixels, padded;
  Grid() = default;
  Grid(int full_height, int full_width, int stride)
      : stride(stride), height((full_height + stride - 1) / stride), width((full_width + stride - 1) / stride),
        pixels(size_t(height) * size_t(width)), padded((pixels + kPad - 1) / kPad * kPad) {}
};

// The picture's lines [y_begin, y_end) as planes of floats, each value the mean of the stride x stride pixels it
// stands for; planes are `pitch` floats apart.
void image_lines(const ss_crf_job& job, const Grid& grid, int y_begin, int y_end, float* planes, size_t pitch);

int term_dims(const ss_crf_job& job, const ss_crf_term& term);

// A term's features from the grid and those planes (`plane` apart), divided by their sigmas; `pitch` apart.
void grid_features(const ss_crf_job& job, const ss_crf_term& term, const Grid& grid, const float* planes,
                   size_t plane, int y_begin, int y_end, float* features, size_t pitch);

// All of a term's features, (dims, padded); `planes` holds the whole picture, `padded` apart.
void term_features(const ss_crf_job& job, const ss_crf_term& term, const Grid& grid, const float* planes,
                   Buffer<float>& features);

// Between what each feature can lie on any grid over this picture. Throws Refusal on NaN or infinity.
void term_bounds(const ss_crf_job& job, const ss_crf_term& term, const Grid& grid, float* least, float* most);

// The logits as rows, and rows of log p made from them on any grid.
struct Unary {
  Buffer<float> rows;
  std::vector<Tap> down, across;
  Resample resample{};

  // Reads the job's logits. Throws Refusal on NaN.
  void prepare(const ss_crf_job& job, const Kernels& kernels, Team& team, int row);
  // Chooses a grid.
  void aim(const ss_crf_job& job, const Grid& grid, int row);
  // All of the grid's rows. Throws Refusal where a pixel has no finite largest.
  void fill(const Kernels& kernels, Team& team, const Grid& grid, float* to) const;
};

}  // namespace ss
