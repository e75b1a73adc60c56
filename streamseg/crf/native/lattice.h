// The sparse permutohedral lattice of one set of feature vectors, and the order in which to blur it.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "buffer.h"
#include "kernels.h"
#include "team.h"

namespace ss {

// A refusal with its ABI code; never leaves the library.
struct Refusal : std::runtime_error {
  Refusal(int code, const std::string& what) : std::runtime_error(what), code(code) {}
  int code;
};

struct Table {                    // open addressing, linear probing, at most half full
  struct Entry {
    uint64_t key;
    uint32_t extra, id;           // id == kNone: free
  };
  Buffer<Entry> entries;
  int bits = 0;
  uint32_t used = 0;

  void clear(int at_least_bits);
  size_t slot(uint64_t key, uint32_t extra) const {
    return ((key ^ (uint64_t{extra} << 32) ^ (extra * 0xD6E8FEB86659FD93ull)) * 0x9E3779B97F4A7C15ull) >> (64 - bits);
  }
  void prefetch(uint64_t key, uint32_t extra) const { __builtin_prefetch(entries.data() + slot(key, extra)); }
  uint32_t find(uint64_t key, uint32_t extra) const {
    const size_t mask = (size_t{1} << bits) - 1;
    for (size_t at = slot(key, extra);; at = (at + 1) & mask) {
      const Entry& e = entries[at];
      if (e.id == kNone) return kNone;
      if (e.key == key && e.extra == extra) return e.id;
    }
  }
  // The id of the key; a new key gets `fresh`.
  uint32_t find_or_add(uint64_t key, uint32_t extra, uint32_t fresh);
};

struct Lattice {
  EmbedPlan plan{};
  int nv = 0;                     // vertices of a simplex: dims + 1
  bool packed = false;            // keys are exact; otherwise 64-bit fingerprints of the coordinates
  uint64_t step[kMaxDims + 1] = {};  // key of the neighbour along an axis, minus the key
  size_t pixels = 0, padded = 0;
  uint32_t points = 0, simplices = 0;
  Table by_simplex, by_point;
  Buffer<float> bary;             // (padded, nv)
  Buffer<uint64_t> key, ranks;    // (padded,)
  Buffer<uint32_t> simplex;       // (pixels,) of each pixel, numbered in the order of first touch
  Buffer<uint32_t> vertices;      // (simplices, nv) points, numbered in the order of first touch
  Buffer<uint64_t> point_key;     // (points,)
  Buffer<uint32_t> link;          // (points, nv) next point along each axis, or kNone
  Buffer<uint32_t> chain[kMaxDims + 1];   // per axis: zero_row, point, point, zero_row, point, ... , zero_row
  size_t chain_length[kMaxDims + 1] = {};
  // Of two-dimensional lattices whose neighbours lie near one another: see Wave. reach == 0: not there.
  Buffer<uint32_t> near;
  uint32_t reach = 0;
  Buffer<uint32_t> next[kMaxDims + 1];    // the links once more, axis by axis
  Buffer<uint64_t> bits_scratch[kMaxDims + 1];
  Buffer<uint64_t> maybe;         // a bit per hash of a point's key: most neighbours asked for are not there

  // features: dims arrays of `padded` floats; least, most: bounds of whatever will be looked up. Throws Refusal when
  // the coordinates do not fit.
  void build(const Kernels& kernels, Team& team, const float* const* features, int dims, size_t pixels,
             const float* least, const float* most);
  void simplex_key(uint64_t key, uint64_t ranks, uint64_t* out_key, uint32_t* out_extra) const {
    if (plan.dims <= 8) {
      *out_key = key;
      *out_extra = static_cast<uint32_t>(ranks);
    } else {
      *out_key = key + ranks * 0xA24BAED4963EE407ull;
      *out_extra = static_cast<uint32_t>(ranks ^ (ranks >> 32));
    }
  }
  // Axes in the order in which the vertices of a simplex follow one another; the last leads back to the first vertex.
  void axes_of(uint64_t ranks, int* axes) const {
    const int d = plan.dims;
    const uint64_t mask = (uint64_t{1} << plan.rank_bits) - 1;
    int left = d * (d + 1) / 2;
    for (int i = 0; i < d; ++i) {
      const int rank = static_cast<int>(ranks >> (plan.rank_bits * i) & mask);
      axes[d - rank] = i;
      left -= rank;
    }
    axes[d - left] = d;
  }

 private:
  void lay_out(const float* least, const float* most);
  void link_simplices();
  struct Fresh {                  // a simplex met for the first time, whose points are yet to be found
    uint64_t key, ranks;
    uint32_t id;
  };
  void announce(const Fresh& fresh);
  void add_simplex(const Fresh& fresh);
  static size_t maybe_bit(uint64_t key) { return (key * 0x9E3779B97F4A7C15ull) >> (64 - 21); }
  uint32_t point_at(uint64_t key);
  void link_rest(size_t begin, size_t end);
  void string_up(int axis);
  void pair_up();
};

}  // namespace ss
