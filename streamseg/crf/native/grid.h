// Pictures, features and logits on the grid of every stride-th pixel.
#pragma once

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

// The picture as planes of floats, each value the mean of the stride x stride pixels it stands for. (channels, padded)
void image_planes(const ss_crf_job& job, const Grid& grid, Buffer<float>& planes);

// The term's features as planes; `planes` holds the picture. Returns how many. Throws Refusal on NaN or infinity.
int term_features(const ss_crf_job& job, const ss_crf_term& term, const Grid& grid, const float* planes,
                  Buffer<float>& features);

// Rows of log p: resampled to the grid, then shifted so that the largest of a row is 0; padding is -1e30.
// `source` holds the logits as rows where they have to be resampled, and is filled on first use.
void unary_rows(const ss_crf_job& job, const Kernels& kernels, Team& team, const Grid& grid, int row,
                Buffer<float>& source, bool& source_ready, float* rows);

}  // namespace ss
