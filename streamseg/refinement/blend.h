// Fusion's arithmetic: logits of the present blended with those of the past, in one pass over memory.
// A plain C interface; streamseg/refinement/blend.py calls it, streamseg/refinement/fusion.py says what it is for.
#pragma once

#include <cstddef>
#include <cstdint>

namespace blend {

constexpr int kRow = 16;        // floats that the classes of a pixel are padded to a multiple of

}  // namespace blend

extern "C" {

// The result for an earlier picture, and where each pixel of the present was in it.
struct ss_blend_past {
  const float* rows;            // (height, width, row): classes of a pixel lie together
  const uint8_t* grey;          // (height, width)
  const float* where;           // (height, width, 2): x and y in the earlier picture
  float weight;                 // where the two pictures agree
};

struct ss_blend_job {
  const float* logits;          // (classes, from_height, from_width), log-probabilities up to a constant per pixel
  int32_t classes, from_height, from_width;
  int32_t height, width;        // of everything below; logits are scaled to it, bicubically
  const uint8_t* grey;          // the present picture; may be null where there is no past
  const ss_blend_past* refined;  // log-probabilities, blended log-linearly, before the soft-max; or null
  const ss_blend_past* before;  // probabilities, blended linearly, after it; or null
  const float* trust;           // (256): of two grey levels that differ by so many
  float soften;                 // share of the result that is spread evenly over the classes
  float least;                  // probabilities are not below it where their logarithm is taken
  int32_t log_rows;             // whether `rows` get logarithms
  float* rows;                  // (height, width, row) result
  float* log_planes;            // (classes, height, width) its logarithm; or null
};

// Floats of a row.
__attribute__((visibility("default"))) int32_t ss_blend_row(int32_t classes);
// 0, 1 for impossible sizes, 2 when memory is short. Positions may be anything, NaN too.
__attribute__((visibility("default"))) int32_t ss_blend_run(const ss_blend_job* job);

}  // extern "C"

namespace blend {

// Horizontal and vertical taps of the scaling, (length, 4).
struct Taps {
  const int32_t* at;
  const float* weight;
};

struct Work {
  const ss_blend_job* job;
  int row;                      // floats
  Taps down, across;            // null where the size is the same
  float* from;                  // logits as rows, (from_height, from_width, row)
  float* line;                  // (from_width, row)
  float* out;                   // (kRow, row)
  const float* even;            // (row) what each class gets of `soften`
  int32_t* near;                // (2, width): upper left neighbour in an earlier picture, as an index
  float* mix;                   // (2, 3, width): weight of the right, of the lower neighbour, of the past
};

void rows_portable(const Work&);
void rows_avx2(const Work&);
void rows_avx512(const Work&);

}  // namespace blend
