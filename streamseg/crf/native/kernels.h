// The inner loops, as plain functions over plain memory, in one table per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ss {

constexpr int kPad = 16;        // lanes that per-pixel arrays are padded to, whatever the instruction set
constexpr int kMaxDims = 255;   // features of one pairwise term: 8 bits for a rank
constexpr int kCodedDims = 15;  // so many ranks fit a code of 64 bits; grids and pictures have no more
constexpr int kMaxTerms = 256;  // pairwise terms of one job
constexpr int kFewTerms = 8;    // the pass whose rows are in registers takes no more
constexpr int kMaxParts = 32;   // pieces a picture is cut into
constexpr uint32_t kNone = 0xffffffffu;

// How feature vectors become packed lattice coordinates (Adams et al. 2010, section 3).
struct EmbedPlan {
  int dims;
  float scale[kMaxDims];        // of the k-th feature, with the blur's own width folded in
  int32_t low[kMaxDims];        // smallest coordinate that can occur
  uint64_t unit[kMaxDims];      // what one step of coordinate i adds to a key
  int rank_bits;                // of one rank in the permutation code; 0: the code is a fingerprint, as keys can be
  uint64_t rank_unit[kMaxDims]; // what rank 1 of coordinate i adds to the code
};

struct Place {                  // a lattice point beside a pixel
  uint32_t point;
  float weight;
};

// One term as the pass over pixels sees it. Rows are `row` floats long.
struct PassTerm {
  int nv;                       // vertices of a simplex: dims + 1
  float* values;                // blurred rows, read (slice)
  float* sums;                  // rows to add to (splat): the sums of all pixels so far
  const float* weights;         // of the main term: nv per pixel, in visiting order
  const uint32_t* vertices;     // of the main term: nv per simplex
  const Place* places;          // of other terms: nv per pixel
  bool scattered;               // rows of neighbouring pixels seldom coincide: worth fetching ahead
  const float* gain_out;        // per pixel, or null: multiplies what is sliced
  const float* gain_in;         // per pixel, or null: multiplies what is splatted
};

struct Visits {                 // pixels in the order of visits: those of one simplex of the main term follow each other
  const uint32_t* simplex;
  const uint32_t* pixel;
};

struct Pass {
  int lanes_used, row;          // classes, and floats of a row
  int terms;
  const PassTerm* term;         // the first is the main one
  Visits visits;
  float* unary;                 // rows, log p up to a constant; on the last pass overwritten with the result
  float* added;                  // rows: what of each pixel is in the sums
  uint8_t* rest;                // per visit: for how many passes more the pixel is left alone
  float still;                  // a pixel none of whose probabilities moved further than this is not splatted again
  uint8_t rest_passes;          // and is left alone for so many passes,
  float settled;                // or for `settled_passes`, where none moved further than this
  uint8_t settled_passes;
  bool slice, splat;            // the first pass does not slice, the last does not splat
  bool plain;                   // rows hold plain values: no soft-max
  // Points below `shared_below` belong to an earlier part: this part adds to a copy `shared_shift` rows further.
  const uint32_t* shared_below;  // one per term
  const uint32_t* shared_shift;
  size_t begin, end;            // visits
  uint32_t* list;               // scratch: end - begin, and kListPad more
  float* scratch;               // two rows
};

constexpr size_t kListPad = 32;

// What the last step at another resolution reads: coordinates of its own pixels in a lattice that is there already.
struct FinishTerm {
  int nv;
  const float* values;          // blurred rows
  const float* norm_values;     // blurred ones, per point
  const uint32_t* vertices;     // (pixels, nv), the zero row where the lattice has no such point
  const float* weights;         // (pixels, nv) barycentric
  int normalisation;
  float norm_factor;            // of the filter
  bool folded;                  // weights hold the normalisation already
};

struct Finish {
  int terms, row;
  const FinishTerm* term;
  float* unary;                 // rows, overwritten with the result
  size_t begin, end;            // pixels
};

struct BlurChain {
  const uint32_t* stream;       // points of a chain in order; chains end with `zero_row`
  size_t begin, end;
  uint32_t zero_row;            // reads as zeros
  uint32_t sink_row;            // takes what is thrown away; each part has its own
};

struct Tap {                    // where a grid's pixel lies among the samples of an axis
  int first, last;              // two neighbours and the weight of the second; or, for means, a range
  float weight;
};

struct Resample {
  const float* rows;            // of the samples
  int from_width, row;
  int width;                    // of the grid
  bool box;                     // means over the taps' ranges, instead of bilinear
  const Tap* down;
  const Tap* across;
};

struct Wave {                   // a share of a two-dimensional lattice, for all its axes at once
  const uint32_t* near;         // per point: next and previous along each of three axes; the zero row where none is
  int64_t points;               // also the zero row
  int64_t reach;                // no neighbour is further than this
  int64_t begin, end;           // points of this share
  uint32_t ring;                // a power of two, above 2 * reach and two blocks
  int64_t at[3];                // how far each axis has come
};

struct Kernels {
  const char* name;
  int width;
  // bary: (count, dims + 1); count is a multiple of kPad. rank_of: (count, dims), or null.
  void (*embed)(const EmbedPlan&, const float* const* features, size_t begin, size_t count, float* bary,
                uint64_t* key, uint64_t* ranks, uint8_t* rank_of);
  void (*pass)(const Pass&);
  void (*finish)(const Finish&);
  // Multiplies the weights of `count` pixels with their normalisation.
  void (*fold_norm)(const FinishTerm&, size_t count, float* weights);
  // First axis: from sums to values, times one factor per class.
  void (*blur_first)(const BlurChain&, const float* sums, float* values, int row, const float* factor,
                     const uint32_t* shared, const uint32_t* shared_row);
  void (*blur)(const BlurChain&, float* values, int row);
  // From sums to values, as far as sums below `limit` allow. rings: 2 (ring + 1) rows, kept between calls.
  void (*wave)(Wave&, int64_t limit, const float* sums, float* values, int row, const float* factor, float* rings);
  void (*blur_scalar)(const BlurChain&, float* values);
  // rows *= matrix (lanes x row), in place
  void (*mix)(float* rows, size_t begin, size_t end, int lanes_used, int row, const float* matrix, float* scratch);
  bool (*rows_from_planes)(const float* planes, size_t plane, int lanes, size_t begin, size_t end, float* rows,
                           int row, float pad, float least);
  void (*planes_from_rows)(const float* rows, int row, int lanes, size_t plane, size_t begin, size_t end,
                           float* probabilities, float* logs, uint8_t* labels);
  bool (*unary_lines)(const Resample&, int y_begin, int y_end, float* out);
};

const Kernels* kernels_portable();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();

}  // namespace ss
