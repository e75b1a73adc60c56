// Connected regions of labels that are too small become 255. One pass over the pixels: a row is cut into runs of one
// label, runs that touch by an edge and have the same label are united, and small unions are overwritten.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

namespace {

constexpr uint8_t kIgnore = 255;

struct Run {
  int32_t begin, end;  // in its row
  int32_t parent;      // of its union, by index
  int32_t pixels;      // of the union, at its root; at most 2^31 - 1
};

int32_t root_of(std::vector<Run>& runs, int32_t at) {
  while (runs[at].parent != at) at = runs[at].parent = runs[runs[at].parent].parent;
  return at;
}

void unite(std::vector<Run>& runs, int32_t one, int32_t other) {
  one = root_of(runs, one);
  other = root_of(runs, other);
  if (one == other) return;
  const int32_t low = std::min(one, other), high = std::max(one, other);
  runs[high].parent = low;
  runs[low].pixels += runs[high].pixels;
}

// The end of the run that begins at x.
int end_of_run(const uint8_t* row, int x, int n) {
  const uint64_t same = 0x0101010101010101u * row[x];
  int at = x + 1;
  for (; at + 8 <= n; at += 8) {
    uint64_t eight;
    std::memcpy(&eight, row + at, sizeof eight);
    if (eight != same) break;
  }
  while (at < n && row[at] == row[x]) ++at;
  return at;
}

}  // namespace

extern "C" {

// labels: (H, W) uint8, changed in place. confidence: (H, W) uint8 or null; 0 where a label goes. least: pixels of a
// region that stays. Returns 0, 1 for impossible sizes, 2 when memory is short.
__attribute__((visibility("default"))) int streamseg_drop_small(uint8_t* labels, uint8_t* confidence, int H, int W,
                                                                int least) {
  if (H < 1 || W < 1 || static_cast<int64_t>(H) * W > INT32_MAX) return 1;
  try {
    std::vector<Run> runs;
    std::vector<int32_t> rows(static_cast<size_t>(H) + 1);  // first run of each
    for (int y = 0; y < H; ++y) {
      const uint8_t* row = labels + static_cast<size_t>(y) * W;
      const uint8_t* before = row - W;
      rows[y] = static_cast<int32_t>(runs.size());
      int32_t up = y > 0 ? rows[y - 1] : 0;
      const int32_t up_end = rows[y];
      for (int x = 0; x < W;) {
        const int end = end_of_run(row, x, W);
        const int32_t at = static_cast<int32_t>(runs.size());
        runs.push_back({x, end, at, end - x});
        if (y > 0 && row[x] != kIgnore) {
          while (up < up_end && runs[up].end <= x) ++up;
          for (int32_t other = up; other < up_end && runs[other].begin < end; ++other)
            if (before[runs[other].begin] == row[x]) unite(runs, other, at);
        }
        x = end;
      }
    }
    rows[H] = static_cast<int32_t>(runs.size());
    for (int y = 0; y < H; ++y) {
      uint8_t* row = labels + static_cast<size_t>(y) * W;
      for (int32_t at = rows[y]; at < rows[y + 1]; ++at) {
        const Run& run = runs[at];
        if (row[run.begin] == kIgnore || runs[root_of(runs, at)].pixels >= least) continue;
        std::memset(row + run.begin, kIgnore, run.end - run.begin);
        if (confidence)
          std::memset(confidence + static_cast<size_t>(y) * W + run.begin, 0, run.end - run.begin);
      }
    }
  } catch (const std::bad_alloc&) {
    return 2;
  }
  return 0;
}

}  // extern "C"
