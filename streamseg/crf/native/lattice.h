// The sparse permutohedral lattice of one set of feature vectors, and the order in which to blur it.
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "buffer.h"
#include "kernels.h"
#include "points.h"
#include "team.h"

namespace ss {

// A refusal with its ABI code; never leaves the library.
struct Refusal : std::runtime_error {
  Refusal(int code, const std::string& what) : std::runtime_error(what), code(code) {}
  int code;
};

// Writes the features of pixels [begin, end), `pitch` apart.
using Features = std::function<void(size_t begin, size_t end, float* to, size_t pitch)>;

// Calls act(dims), as a constant where it is one of the usual numbers: loops over a simplex' vertices are then unrolled.
template <class Act>
void with_dims(int dims, const Act& act) {
  if (dims == 5) return act(std::integral_constant<int, 5>{});
  if (dims == 2) return act(std::integral_constant<int, 2>{});
  act(dims);
}

struct Lattice {
  EmbedPlan plan{};
  int nv = 0;                     // vertices of a simplex: dims + 1
  bool packed = false;            // keys are exact; otherwise 64-bit fingerprints of the coordinates
  uint64_t step[kMaxDims + 1] = {};  // key of the neighbour along an axis, minus the key
  size_t pixels = 0, padded = 0;
  uint32_t points = 0, simplices = 0;
  Table by_simplex;
  struct Corner {                 // what distinguishes one simplex from another
    uint64_t key, ranks;
  };
  Buffer<Corner> corner;          // (simplices,)
  Buffer<uint8_t> turns;          // (simplices, dims) ranks, where `ranks` is a fingerprint of them
  Buffer<float> bary;             // (padded, nv)
  Buffer<uint32_t> simplex;       // (pixels,) of each pixel, numbered in the order of first touch
  Buffer<uint32_t> vertices;      // (simplices, nv) points, numbered in the order of first touch
  Points point;
  Buffer<uint32_t> chain[kMaxDims + 1];   // per axis: zero_row, point, point, zero_row, point, ... , zero_row
  size_t chain_length[kMaxDims + 1] = {};
  // Of two-dimensional lattices whose neighbours lie near one another: see Wave. reach == 0: not there.
  Buffer<uint32_t> near;
  uint32_t reach = 0;
  Buffer<uint32_t> next[kMaxDims + 1];    // the links once more, axis by axis
  Buffer<uint64_t> bits_scratch[kMaxDims + 1];

  // least, most: bounds of all that will be looked up. Throws Refusal when the coordinates do not fit.
  void build(const Kernels& kernels, Team& team, const Features& features, int dims, size_t pixels,
             const float* least, const float* most);
  // kNone where no pixel lies in such a simplex.
  uint32_t find_simplex(uint64_t key, uint64_t ranks) const {
    return by_simplex.find(tag_of(key, ranks), [&](uint32_t id) { return is_simplex(id, key, ranks); });
  }
  void announce_simplex(uint64_t key, uint64_t ranks) const { by_simplex.prefetch(tag_of(key, ranks)); }
  // Axes in the order in which the vertices of a simplex follow one another; the last leads back to the first vertex.
  void axes_of(uint64_t code, int* axes) const {
    const int bits = plan.dims <= 7 ? 3 : 4;
    axes_by(axes, [&](int i) { return static_cast<int>(code >> (bits * i) & ((1u << bits) - 1)); });
  }
  template <class Dims>
  void axes_of_simplex(uint32_t id, int* axes, const Dims dims) const {
    const uint64_t code = corner[id].ranks;
    if (dims <= 7) return axes_by(axes, [&](int i) { return static_cast<int>(code >> (3 * i) & 7); }, dims);
    if (dims <= kCodedDims) return axes_of(code, axes);
    axes_by(axes, [&](int i) { return turns[size_t{id} * plan.dims + i]; });
  }

 private:
  struct Chunk {                  // what was embedded a moment ago
    Buffer<uint64_t> key, ranks;
    Buffer<uint8_t> turns;
    Buffer<float> features;
  } chunk;

  template <class Rank>
  void axes_by(int* axes, const Rank& rank) const {
    axes_by(axes, rank, plan.dims);
  }
  template <class Rank, class Dims>
  static void axes_by(int* axes, const Rank& rank, const Dims d) {
    int left = d * (d + 1) / 2;
    for (int i = 0; i < d; ++i) {
      axes[d - rank(i)] = i;
      left -= rank(i);
    }
    axes[d - left] = d;
  }
  void lay_out(const float* least, const float* most);
  void number_simplices(size_t begin, size_t count);
  template <class Dims>
  void number_points(Dims dims);
  bool is_simplex(uint32_t id, uint64_t key, uint64_t ranks) const {
    return corner[id].key == key && corner[id].ranks == ranks;
  }
  template <class Dims>
  void link_rest(size_t begin, size_t end, Dims dims);
  void string_up(int axis);
  void pair_up();
};

}  // namespace ss
