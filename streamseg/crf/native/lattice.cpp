#include "lattice.h"

#include <algorithm>
#include <cmath>

#include "streamseg_crf.h"

namespace ss {

void Table::clear(int at_least_bits) {
  if (at_least_bits > bits) bits = at_least_bits;
  const size_t count = size_t{1} << bits;
  std::memset(static_cast<void*>(entries.need(count)), 0xff, count * sizeof(Entry));
  used = 0;
}

void Table::enlarge() {
  Buffer<Entry> old;
  const size_t count = size_t{1} << bits;
  std::memcpy(static_cast<void*>(old.need(count)), entries.data(), count * sizeof(Entry));
  clear(bits + 1);
  const auto other = [](uint32_t) { return false; };
  for (size_t i = 0; i < count; ++i)
    if (old[i].id != kNone) find_or_add(old[i].tag, other, old[i].id);
}

void Lattice::build(const Kernels& kernels, Team& team, const Features& features, int dims, size_t count,
                    const float* least, const float* most) {
  constexpr size_t chunk_pixels = size_t{1} << 16, block = 1024;  // blocks stay in the first cache, or nearly
  plan.dims = dims;
  nv = dims + 1;
  pixels = count;
  padded = (count + kPad - 1) / kPad * kPad;
  lay_out(least, most);

  bary.need(padded * nv);
  const size_t room = std::min(chunk_pixels, padded);
  const int parts = std::min(team.size() * 4, 2 * kMaxParts);
  const bool wide = dims > kCodedDims;
  chunk.key.need(room);
  chunk.ranks.need(room);
  if (wide) chunk.turns.need(room * dims);
  chunk.features.need(block * dims * parts);
  by_simplex.clear(14);
  simplices = 0;
  for (size_t from = 0; from < padded; from += room) {
    const size_t some = std::min(room, padded - from), share = (some / kPad + parts - 1) / parts * kPad;
    team.each(parts, [&](int part) {
      float* own = chunk.features.data() + block * dims * part;
      const float* list[kMaxDims];
      for (int k = 0; k < dims; ++k) list[k] = own + k * block;
      const size_t stop = std::min(share * (part + 1), some);
      for (size_t at = share * part; at < stop; at += block) {
        const size_t wanted = std::min(block, stop - at), there = std::min(wanted, pixels - from - at);
        features(from + at, from + at + there, own, block);
        for (int k = 0; k < dims; ++k)
          for (size_t i = there; i < wanted; ++i) own[k * block + i] = own[k * block];
        kernels.embed(plan, list, wanted, bary.data() + (from + at) * nv, chunk.key.data() + at,
                      chunk.ranks.data() + at, wide ? chunk.turns.data() + at * dims : nullptr);
      }
    });
    number_simplices(from, std::min(some, pixels - from));
  }
  with_dims(dims, [&](const auto d) { number_points(d); });
  for (int axis = 0; axis < nv; ++axis) {
    chain[axis].need(2 * size_t{points} + 2);
    next[axis].need(points);
    bits_scratch[axis].need(2 * ((size_t{points} + 63) / 64) + 1);
  }
  with_dims(dims, [&](const auto d) {
    team.each(parts, [&](int part) {
      link_rest(size_t{points} * part / parts, size_t{points} * (part + 1) / parts, d);
    });
  });
  team.each(nv, [&](int axis) { string_up(axis); });
  pair_up();
}

// Chooses offsets and units so that every coordinate that can occur has its own bits of the key; where 64 are too few,
// random units make the key a linear fingerprint (two of a million points collide once in 10^7 pictures).
void Lattice::lay_out(const float* least, const float* most) {
  const int d = plan.dims;
  double low[kMaxDims + 1] = {}, high[kMaxDims + 1] = {};
  const double width = std::sqrt(2.0 / 3.0) * (d + 1);  // makes the blur's standard deviation 1
  for (int k = 0; k < d; ++k) {
    plan.scale[k] = static_cast<float>(width / std::sqrt((k + 1.0) * (k + 2.0)));
    // Feature k adds cf to coordinates 0..k and takes (k + 1) cf from coordinate k + 1.
    const double a = double{least[k]} * plan.scale[k], b = double{most[k]} * plan.scale[k];
    for (int i = 0; i <= k; ++i) low[i] += a, high[i] += b;
    low[k + 1] -= (k + 1) * b;
    high[k + 1] -= (k + 1) * a;
  }
  int bits = 0;
  int shift[kMaxDims];
  for (int i = 0; i < d; ++i) {
    const double reach = std::fmax(std::fabs(low[i]), std::fabs(high[i]));
    if (!(reach / (d + 1) < 2097152.0)) {
      throw Refusal(SS_CRF_KEY, "lattice coordinates are too large: a feature spans " + std::to_string(reach) +
                                    " lattice steps, at most " + std::to_string(2097152 * (d + 1)) +
                                    " fit; raise the smallest sigma");
    }
    plan.low[i] = static_cast<int32_t>(std::floor(low[i])) - 4 * (d + 1);
    const double range = high[i] - low[i] + 8.0 * (d + 1) + 2;
    shift[i] = bits;
    bits += static_cast<int>(std::ceil(std::log2(range)));
  }
  packed = bits <= 64;
  uint64_t seed = 0x5851F42D4C957F2Dull;
  const auto random_odd = [&] {
    seed += 0x9E3779B97F4A7C15ull;
    uint64_t z = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return (z ^ (z >> 31)) | 1;
  };
  for (int i = 0; i < d; ++i) plan.unit[i] = packed ? uint64_t{1} << shift[i] : random_odd();
  for (int i = 0; i < d; ++i) plan.rank_unit[i] = d <= kCodedDims ? uint64_t{1} << (d <= 7 ? 3 : 4) * i : random_odd();
  uint64_t ones = 0;
  for (int i = 0; i < d; ++i) ones += plan.unit[i];
  for (int i = 0; i < d; ++i) step[i] = ones - static_cast<uint64_t>(d + 1) * plan.unit[i];
  step[d] = ones;
}

// In the order in which pixels meet them.
void Lattice::number_simplices(size_t begin, size_t count) {
  simplex.need(pixels);
  constexpr size_t ahead = 12;
  const uint64_t* key = chunk.key.data();
  const uint64_t* ranks = chunk.ranks.data();
  uint64_t last_key = 0, last_ranks = 0;
  uint32_t last = kNone;
  for (size_t i = 0; i < count; ++i) {
    if (i + ahead < count) announce_simplex(key[i + ahead], ranks[i + ahead]);
    if (last == kNone || key[i] != last_key || ranks[i] != last_ranks) {
      last_key = key[i];
      last_ranks = ranks[i];
      const auto same = [&](uint32_t id) { return is_simplex(id, last_key, last_ranks); };
      last = by_simplex.find_or_add(tag_of(last_key, last_ranks), same, simplices);
      if (last == simplices) {
        corner.grow(simplices, size_t{simplices} + 1)[simplices] = {last_key, last_ranks};
        if (const size_t d = plan.dims; d > kCodedDims)
          std::memcpy(turns.grow(simplices * d, (simplices + 1) * d) + simplices * d, chunk.turns.data() + i * d, d);
        ++simplices;
      }
    }
    simplex[begin + i] = last;
  }
}

// In the order in which simplices meet them. Vertex k of a simplex is the neighbour of vertex k - 1 along one axis: most of
// them are found by their links.
template <class Dims>
void Lattice::number_points(const Dims dims) {
  point.clear();
  vertices.need(size_t{simplices} * nv);
  constexpr uint32_t ahead = 12;
  int axes[kMaxDims + 1];
  for (uint32_t id = 0; id < simplices; ++id) {
    if (id + ahead < simplices) {
      axes_of_simplex(id + ahead, axes, dims);
      uint64_t at = corner[id + ahead].key;
      for (int k = 0; k <= dims; ++k) {
        point.announce(at);
        at += step[axes[k]];
      }
    }
    axes_of_simplex(id, axes, dims);
    uint32_t* mine = vertices.data() + size_t{id} * (dims + 1);
    mine[0] = point.find_or_add(corner[id].key, dims + 1);
    for (int k = 1; k <= dims; ++k) {
      const uint32_t before = mine[k - 1];
      const size_t edge = size_t{before} * (dims + 1) + axes[k - 1];
      uint32_t next = point.link[edge];
      if (next == kNone) {
        next = point.find_or_add(point.key[before] + step[axes[k - 1]], dims + 1);
        point.link[edge] = next;
      }
      mine[k] = next;
    }
    point.link[size_t{mine[dims]} * (dims + 1) + axes[dims]] = mine[0];
  }
  points = point.count;
}

// Neighbours that no simplex joins. Each question waits a moment, until its slot is in the cache.
template <class Dims>
void Lattice::link_rest(size_t begin, size_t end, const Dims dims) {
  struct Question {
    uint64_t key;
    size_t point;
    int axis;
  };
  constexpr size_t queue_size = 16;
  Question queue[queue_size];
  size_t asked = 0, answered = 0;
  const auto answer = [&] {
    const Question& q = queue[answered++ % queue_size];
    next[q.axis][q.point] = point.link[q.point * nv + q.axis] = point.find(q.key);
  };
  for (size_t p = begin; p < end; ++p) {
    const uint64_t own = point.key[p];
    for (int axis = 0; axis <= dims; ++axis) {
      const uint32_t to = point.link[p * (dims + 1) + axis];
      next[axis][p] = to;
      if (to != kNone) continue;
      const uint64_t key = own + step[axis];
      if (!point.perhaps(key)) continue;
      point.announce(key);
      if (asked - answered == queue_size) answer();
      queue[asked++ % queue_size] = {key, p, axis};
    }
  }
  while (answered < asked) answer();
}

// Points along one axis as a stream of chains. A chain of one point blurs to itself: it is left out, except on the
// first axis, which visits every point.
void Lattice::string_up(int axis) {
  const uint32_t* after = next[axis].data();
  const size_t words = (size_t{points} + 63) / 64;
  uint64_t* inner = bits_scratch[axis].data();  // which points have a previous one; the last word's spare bit is not used
  uint64_t* begins = inner + words + 1;         // who has a next one, and then who is a head
  std::memset(inner, 0, (words + 1) * 8);
  for (size_t word = 0; word < words; ++word) {
    uint64_t has_next = 0;
    const uint32_t first = uint32_t(word * 64), some = std::min(points - first, 64u);
    for (uint32_t i = 0; i < some; ++i) {
      const uint32_t to = after[first + i];
      has_next |= uint64_t{to != kNone} << i;
      const size_t bit = to != kNone ? to : words * 64;
      inner[bit >> 6] |= uint64_t{1} << (bit & 63);
    }
    begins[word] = axis ? has_next : some == 64 ? ~uint64_t{0} : (uint64_t{1} << some) - 1;
  }
  uint32_t* out = chain[axis].data();
  const uint32_t zero_row = points;
  *out++ = zero_row;
  for (size_t word = 0; word < words; ++word) {
    for (uint64_t heads = begins[word] & ~inner[word]; heads; heads &= heads - 1) {
      for (uint32_t p = uint32_t(word * 64) + __builtin_ctzll(heads); p != kNone; p = after[p]) *out++ = p;
      *out++ = zero_row;
    }
  }
  chain_length[axis] = static_cast<size_t>(out - chain[axis].data());
}

void Lattice::pair_up() {
  constexpr uint32_t most_reach = 1900;  // two rings of 4096 rows still fit a second-level cache
  reach = 0;
  if (nv != 3) return;
  near.need(size_t{points} * 6);
  for (size_t i = 0; i < size_t{points} * 6; ++i) near[i] = points;
  uint32_t furthest = 1;
  for (uint32_t p = 0; p < points; ++p) {
    for (int axis = 0; axis < 3; ++axis) {
      const uint32_t to = point.link[size_t{p} * 3 + axis];
      if (to == kNone) continue;
      near[size_t{p} * 6 + 2 * axis] = to;
      near[size_t{to} * 6 + 2 * axis + 1] = p;
      const uint32_t distance = to > p ? to - p : p - to;
      furthest = distance > furthest ? distance : furthest;
    }
  }
  if (furthest <= most_reach) reach = furthest;
}

}  // namespace ss
