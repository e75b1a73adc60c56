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

// The grid's pixels [begin, end) as planes of floats, each value the mean of the stride x stride pixels it stands for;
// planes are `pitch` floats apart.
void image_planes(const ss_crf_job& job, const Grid& grid, size_t begin, size_t end, float* planes, size_t pitch);

int term_dims(const ss_crf_job& job, const ss_crf_term& term);

// A term's features of those pixels, divided by their sigmas, `pitch` apart; from the grid and those planes, which lie
// `pitch` apart, too, or from the term's own array.
void term_features(const ss_crf_job& job, const ss_crf_term& term, const Grid& grid, const float* planes,
                   size_t begin, size_t end, float* features, size_t pitch);

// Between what each feature can lie on any grid over this picture. Throws Refusal on NaN or infinity.
void term_bounds(const ss_crf_job& job, const ss_crf_term& term, const Grid& grid, float* least, float* most);

// Rows of log p on any grid, made from the logits band by band.
struct Unary {
  Buffer<float> rows;             // the logits as rows, unless they lie on the grid itself
  std::vector<Tap> down, across;
  Resample resample{};
  const ss_crf_job* job = nullptr;
  const Kernels* kernels = nullptr;

  // Reads the job's logits. Throws Refusal on NaN.
  void prepare(const ss_crf_job& job, const Kernels& kernels, Team& team, int row, int finest_stride);
  // Chooses a grid.
  void aim(const Grid& grid, int row);
  // Rows of the grid's pixels [begin, end); the largest of each is 0. False where one has no finite largest.
  bool fill(size_t begin, size_t end, float* to) const;
};

void refuse_unless_finite(bool fine, const char* what);

}  // namespace ss
