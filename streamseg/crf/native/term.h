// One pairwise term made ready for a grid: its lattice, its norm, its rows, and how it is cut into parts.
#pragma once

#include <string>
#include <vector>

#include "grid.h"
#include "lattice.h"

namespace ss {

struct Band {
  size_t begin, end;
};

struct Part {
  size_t begin, end;              // pixels
  std::vector<Band> bands;
};

// A picture is always cut the same way for 1 and 2 threads, so that both give the same sums in the same order.
inline int part_count(int threads) { return threads <= 2 ? 2 : (threads < kMaxParts ? threads : kMaxParts); }

struct Term {
  Lattice lattice;
  int nv = 0;
  int normalisation = 0;
  float alpha = 0;                // of the lattice filter: 1 / (1 + 2^-dims)
  std::vector<unsigned char> cached;   // what the lattice was made from; empty: not to be used again
  Buffer<unsigned char> looked_at;     // and the picture or the features, where those are kept, too

  Buffer<float> norm_values;      // blurred ones, per point
  Buffer<float> norm;             // per pixel: what a value is multiplied with, unless the weights are already
  std::vector<float> factor;      // per lane: alpha, compatibility, sign; rows are multiplied with it
  std::vector<float> matrix;      // full-matrix compatibility, (lanes, row), or empty

  // The main term decides in which order pixels are visited: its weights and norm lie in that order, and those of one
  // simplex follow each other. Other terms are looked up pixel by pixel.
  Buffer<uint16_t> place;         // per visit: which of its band's pixels it is
  Buffer<Group> groups;           // of each part from where its pixels begin, kGroupPad apart
  std::vector<std::vector<size_t>> band_groups;  // per part: where each band's begin, and the end
  Buffer<uint32_t> local, count;
  Buffer<float> permuted;

  // Where the pixels of a finer grid lie in a lattice of positions: kept, because the picture has no say in it.
  int finer_stride = 0;           // 0: not there
  Buffer<uint32_t> finer_vertices;
  Buffer<float> finer_weights;

  Buffer<float> values, sums;
  uint32_t row_total = 0;         // points, the row of zeros, a sink per part, and the parts' copies
  std::vector<uint32_t> first_of_part;  // points that parts before this one touched first
  std::vector<uint32_t> copy_of_part;   // row at which the part's copies of those start
  std::vector<uint32_t> copies;         // (first_of_part, copy_of_part) of parts after the first, then kNone
  std::vector<uint32_t> shared;         // bit per point: some part has a copy
  std::vector<std::vector<uint32_t>> copied;  // per part: the points whose copies are read
  std::vector<std::vector<uint32_t>> fresh;   // per part and band: points that no pixel after it touches first
  // Lattices of positions are blurred while the pass over pixels goes on, close behind it: `inner` are the points that
  // one part alone adds to and reads, `ready` is how far their sums are complete after each band; `outer` waits
  // for the end of the pass.
  std::vector<Wave> inner, outer;
  std::vector<std::vector<int64_t>> ready;
  std::vector<std::vector<size_t>> cuts;  // per axis: where each part's share of the chains begins

  bool apart = false;             // each part has rows of its own for all points: cheaper to find, and nobody reads them early
  Shares shares() const { return {shared.data(), copies.data(), apart}; }
  uint32_t zero_row() const { return lattice.points; }
  uint32_t sink_row(int part) const { return lattice.points + 1 + uint32_t(part); }

  // Builds lattice, norm and weights; or finds them still there.
  void prepare(const ss_crf_job&, const ss_crf_term&, const Kernels&, Team&, const Grid&,
               const std::vector<Part>& parts, bool main);
  void set_compat(const ss_crf_job&, const ss_crf_term&, int row, float extra);
  void make_rows(int row, int parts);
  PassTerm as_pass(int part, int row) const;
  // Empties the rows that the pixels of a band are the first to add to; and a part's copies, also those of an empty part.
  void clear_sums(int part, size_t band, int row);
  void clear_copies(int part, int row);
  const Group* groups_of(const std::vector<Part>& parts, int part, size_t band) const {
    return groups.data() + parts[part].begin + part * kGroupPad + band_groups[part][band];
  }
  // Adds the parts' copies of shared points where they belong, and clears them.
  void gather_copies(int row);
  BlurChain chain_of(int axis, int part) const {
    return {lattice.chain[axis].data(), cuts[axis][part], cuts[axis][part + 1], zero_row(), sink_row(part)};
  }

 private:
  void make_norm(const Kernels&, Team&, const std::vector<Part>& parts);
  void cut(const std::vector<Part>& parts);
  uint32_t own_shift(int part) const { return apart ? copy_of_part[part] : 0; }
  void plan_waves(const std::vector<Part>& parts);
  Wave wave_over(int64_t begin, int64_t end) const;
  void order(Team&, const std::vector<Part>& parts);
};

}  // namespace ss
