// The inner loops, as plain functions over plain memory, in one table per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ss {

constexpr int kPad = 16;        // lanes that per-pixel arrays are padded to, whatever the instruction set
constexpr int kMaxDims = 255;   // features of one pairwise term
constexpr int kCodedDims = 15;  // so many ranks fit a code of 64 bits; grids and pictures have no more
constexpr int kMaxParts = 32;   // pieces a picture is cut into
constexpr int kMaxTerms = 256;  // pairwise terms of one job
constexpr int kFewTerms = 8;    // the pass whose rows are in registers takes no more
constexpr uint32_t kNone = 0xffffffffu;

// How feature vectors become packed lattice coordinates (Adams et al. 2010, section 3).
struct EmbedPlan {
  int dims;
  float scale[kMaxDims];        // of the k-th feature, with the blur's own width folded in
  int32_t low[kMaxDims];        // smallest coordinate that can occur
  uint64_t unit[kMaxDims];      // what one step of coordinate i adds to a key
  uint64_t rank_unit[kMaxDims]; // what rank 1 of coordinate i adds to the permutation's code
};

// One term as the pass over pixels sees it. Rows are `row` floats long. The main term's arrays lie in the order of
// visits, those of other terms in the order of pixels.
struct PassTerm {
  int nv;                       // vertices of a simplex: dims + 1
  const float* values;          // blurred rows, read (slice)
  float* sums;                  // rows to add to (splat)
  const float* weights;         // nv per pixel
  const uint32_t* simplex;      // of other terms: per pixel
  const uint32_t* vertices;     // nv per simplex
  bool scattered;               // rows of neighbouring pixels seldom coincide: worth fetching ahead
  const float* gain_out;        // per pixel, or null: multiplies what is sliced
  const float* gain_in;         // per pixel, or null: multiplies what is splatted
  uint32_t below, shift;        // points below belong to an earlier part: this part adds to a copy so many rows further;
                                // not of a main term that is kept apart
};

struct Group {                  // visits of one simplex of the main term follow each other
  uint32_t end, simplex;
};

enum class Step { kFirst, kMiddle, kLast };  // the first does not slice, the last does not splat

struct Pass {
  Step step;
  int lanes, row;               // classes, and floats of a row
  int terms;
  const PassTerm* term;         // the first is the main one
  const Group* group;           // of this band, and kGroupPad more
  size_t groups;
  size_t begin, end;            // the band's visits, which are its pixels in another order
  const uint16_t* place;        // per visit: which of its band's pixels it is; read kVisitPad ahead
  float* unary;                 // per visit: log p up to a constant, `lanes` floats; null: none
  float* rows;                  // of the band's pixels: read by the first step, written by the last
  bool keep;                    // the first step puts its rows into `unary`
  bool soft, splat;             // of the first step; `soft` also of the last
  const float* centre;          // a row: what is taken off before splatting
  float* scratch;               // a row
};

constexpr size_t kVisitPad = 32, kGroupPad = 8;

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

struct Shares {                 // how the parts' sums of one lattice come together
  const uint32_t* shared;       // bit per point: a later part adds to it, too
  const uint32_t* copies;       // (first point of a part, row at which its sums begin), then kNone
  bool apart;                   // a part's own points lie there, too; otherwise among the others
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
  // bary: (count, dims + 1); count is a multiple of kPad. turns: (count, dims) ranks, or null.
  void (*embed)(const EmbedPlan&, const float* const* features, size_t count, float* bary, uint64_t* key,
                uint64_t* ranks, uint8_t* turns);
  void (*pass)(const Pass&);
  void (*finish)(const Finish&);
  // Multiplies the weights of `count` pixels with their normalisation.
  void (*fold_norm)(const FinishTerm&, size_t count, float* weights);
  // First axis: from sums, which are left empty, to values, times one factor per class.
  void (*blur_first)(const BlurChain&, float* sums, float* values, int row, const float* factor,
                     const Shares&);
  void (*blur)(const BlurChain&, float* values, int row);
  // From sums to values, as far as sums below `limit` allow. rings: 2 (ring + 1) rows, kept between calls.
  void (*wave)(Wave&, int64_t limit, const float* sums, float* values, int row, const float* factor, float* rings);
  void (*blur_scalar)(const BlurChain&, float* values);
  // rows *= matrix (lanes x row), in place
  void (*mix)(float* rows, size_t begin, size_t end, int lanes_used, int row, const float* matrix, float* scratch);
  // rows[0] is pixel `begin`.
  bool (*rows_from_planes)(const float* planes, size_t plane, int lanes, size_t begin, size_t end, float* rows,
                           int row, float pad, float least);
  // Shifts each row so that its largest is 0. False where there is no finite largest.
  bool (*peak_to_zero)(float* rows, int row, size_t count);
  void (*planes_from_rows)(const float* rows, int row, int lanes, size_t plane, size_t begin, size_t end,
                           float* probabilities, float* logs, uint8_t* labels);
  bool (*unary_rows)(const Resample&, size_t begin, size_t end, float* out);
};

const Kernels* kernels_portable();
const Kernels* kernels_narrow();  // of AVX2, four lanes wide: for few classes
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();

}  // namespace ss
