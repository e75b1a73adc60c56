// The points of a lattice by their keys, and what lies next to each.
#pragma once

#include <cstdint>
#include <cstring>

#include "buffer.h"
#include "kernels.h"

namespace ss {

inline uint32_t tag_of(uint64_t key, uint64_t ranks = 0) {
  return ((key ^ (ranks << 32) ^ (ranks * 0xD6E8FEB86659FD93ull)) * 0x9E3779B97F4A7C15ull) >> 32;
}

// Numbers of keys that lie elsewhere: open addressing, linear probing, at most half full. A tag is the upper half of a
// key's hash, of which the uppermost bits are its slot; same(id) tells whether that is the key looked for.
struct Table {
  struct Entry {
    uint32_t tag, id;             // id == kNone: free
  };
  Buffer<Entry> entries;
  int bits = 0;
  uint32_t used = 0;

  void clear(int at_least_bits);
  void prefetch(uint32_t tag) const { __builtin_prefetch(entries.data() + slot(tag)); }
  template <class Same>
  uint32_t find(uint32_t tag, const Same& same) const {
    const size_t mask = (size_t{1} << bits) - 1;
    for (size_t at = slot(tag);; at = (at + 1) & mask) {
      const Entry& e = entries[at];
      if (e.id == kNone || (e.tag == tag && same(e.id))) return e.id;
    }
  }
  // The id of the key; a new key gets `fresh`.
  template <class Same>
  uint32_t find_or_add(uint32_t tag, const Same& same, uint32_t fresh) {
    if (used >= (size_t{1} << bits) / 2) enlarge();
    const size_t mask = (size_t{1} << bits) - 1;
    for (size_t at = slot(tag);; at = (at + 1) & mask) {
      Entry& e = entries[at];
      if (e.id == kNone) {
        e = {tag, fresh};
        ++used;
        return fresh;
      }
      if (e.tag == tag && same(e.id)) return e.id;
    }
  }

 private:
  size_t slot(uint32_t tag) const { return tag >> (32 - bits); }
  void enlarge();
};

struct Points {                   // numbered in the order in which they are met
  Table table;
  Buffer<uint64_t> key;           // (count,)
  Buffer<uint32_t> link;          // (count, nv) next point along each axis, or kNone
  Buffer<uint64_t> maybe;         // a bit per hash of a key: most neighbours asked for are not there
  uint32_t count = 0;

  void clear() {
    table.clear(14);
    std::memset(maybe.need(size_t{1} << 15), 0, sizeof(uint64_t) << 15);
    count = 0;
  }
  void announce(uint64_t at) const { table.prefetch(tag_of(at)); }
  bool perhaps(uint64_t at) const { return maybe[bit_of(at) >> 6] >> (bit_of(at) & 63) & 1; }
  uint32_t find(uint64_t at) const {
    return table.find(tag_of(at), [&](uint32_t id) { return key[id] == at; });
  }
  uint32_t find_or_add(uint64_t at, int nv) {
    const uint32_t id = table.find_or_add(tag_of(at), [&](uint32_t id) { return key[id] == at; }, count);
    if (id == count) {
      key.grow(count, size_t{count} + 1)[count] = at;
      maybe[bit_of(at) >> 6] |= uint64_t{1} << (bit_of(at) & 63);
      uint32_t* links = link.grow(size_t{count} * nv, size_t{count + 1} * nv) + size_t{count} * nv;
      for (int axis = 0; axis < nv; ++axis) links[axis] = kNone;
      ++count;
    }
    return id;
  }

 private:
  static size_t bit_of(uint64_t at) { return (at * 0x9E3779B97F4A7C15ull) >> (64 - 21); }
};

}  // namespace ss
