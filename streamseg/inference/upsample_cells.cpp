// Labels, and the confidence where it is wanted, a cell of the logits at a time.
//
// In a cell, between four of the logits, each class is interpolated by the same weights. So a class that is the highest
// in all four corners is the highest in the whole cell. And the logarithm of a softmax is concave in the logits: nowhere
// in the cell is the class less probable than in its least probable corner. Where that is above the least confidence,
// or rounds to the highest one where the confidence is wanted, the cell is filled. Those are most of a picture; the
// pixels of the others are computed.
#include "upsample.h"

namespace upsample {
namespace {

// A row of the logits: of each the class with the highest value, and how clear that is.
struct Nodes {
  Buffer<int32_t> arg, sure;
  Buffer<float> best, clear, large, sum;  // clear: from the second best; large: the largest absolute value

  explicit Nodes(int w) : arg(w), sure(w), best(w), clear(w), large(w), sum(w) {}
};

STREAMSEG_CLONES
void rank(const float* __restrict v, int n, int32_t c, float* __restrict best, float* __restrict second,
          float* __restrict large, int32_t* __restrict arg) {
  for (int x = 0; x < n; ++x) {
    const bool wins = v[x] > best[x];
    second[x] = std::max(second[x], std::min(v[x], best[x]));
    best[x] = wins ? v[x] : best[x];
    arg[x] = wins ? c : arg[x];
    const float size = std::fabs(v[x]);
    large[x] = size > large[x] || size != size ? size : large[x];  // NaN stays
  }
}

STREAMSEG_CLONES
void add_over_exp(const float* __restrict v, const float* __restrict best, float factor, int n,
                  float* __restrict sum) {
  for (int x = 0; x < n; ++x) {
    const int32_t bits = static_cast<int32_t>(std::max(0.0f, (v[x] - best[x]) * factor + kOne));
    float e;
    std::memcpy(&e, &bits, sizeof e);
    sum[x] += e;
  }
}

// least: as a probability, or as its inverse for a sum. Returns whether all values can be interpolated.
STREAMSEG_CLONES
bool judge(int n, const float* __restrict best, const float* __restrict large, const float* __restrict sum,
           bool probabilities, float least, float* __restrict clear, int32_t* __restrict sure) {
  int32_t largest = 0;
  for (int x = 0; x < n; ++x) {
    int32_t bits;
    std::memcpy(&bits, large + x, sizeof bits);
    largest = std::max(largest, bits);
    clear[x] = best[x] - clear[x];
    sure[x] = probabilities ? best[x] >= least : sum[x] * least <= 1.0f;
  }
  return largest <= 0x7cf0bdc2;  // as in blend_rows()
}

bool look_at_nodes(const Job& job, int r, float least, Nodes& to) {
  const int w = job.w;
  const size_t plane = static_cast<size_t>(job.h) * w;
  const float* row = job.logits + static_cast<size_t>(r) * w;
  std::fill(to.arg.begin(), to.arg.end(), 0);
  std::fill(to.best.begin(), to.best.end(), -INFINITY);
  std::fill(to.clear.begin(), to.clear.end(), -INFINITY);
  std::fill(to.large.begin(), to.large.end(), 0.0f);
  for (int c = 0; c < job.classes; ++c)
    rank(row + plane * c, w, c, to.best.data(), to.clear.data(), to.large.data(), to.arg.data());
  std::fill(to.sum.begin(), to.sum.end(), 0.0f);
  for (int c = 0; least > 0.0f && !job.probabilities && c < job.classes; ++c)
    add_over_exp(row + plane * c, to.best.data(), job.sharpness * kBits, w, to.sum.data());
  return judge(w, to.best.data(), to.large.data(), to.sum.data(), job.probabilities, least, to.clear.data(),
               to.sure.data());
}

// What each cell between two rows is filled with; -1 where its pixels are looked at. The highest class of all corners
// must be clearly so: what is interpolated is rounded, at values as large as `large` to a millionth of them, and near
// the smallest numbers that have all their digits to no less than those.
STREAMSEG_CLONES
void fill_cells(const Nodes& above, const Nodes& below, int n, int right, const int32_t* published,
                int32_t* __restrict to) {
  const int32_t *a = above.arg.data(), *b = below.arg.data(), *as = above.sure.data(), *bs = below.sure.data();
  const float *ac = above.clear.data(), *bc = below.clear.data(), *al = above.large.data(), *bl = below.large.data();
  for (int x = 0; x < n; ++x) {
    const int r = x + right;
    const bool same = (a[x] == a[r]) & (a[x] == b[x]) & (a[x] == b[r]);
    const float clear = std::min(std::min(ac[x], ac[r]), std::min(bc[x], bc[r]));
    const float large = std::max(std::max(al[x], al[r]), std::max(bl[x], bl[r]));
    const int32_t label = published[a[x]];
    const bool sure = ((as[x] & as[r] & bs[x] & bs[r]) != 0) | (label == kIgnore);
    to[x] = same & (clear > 1e-5f * large + 1e-36f) & sure ? label : -1;
  }
}

}  // namespace

int by_cells(const Job& job, const Columns& columns) {
  const int w = job.w, W = job.W;
  const size_t plane = static_cast<size_t>(job.h) * w;
  Buffer<int32_t> published(job.classes), first_y, cells(w);
  for (int c = 0; c < job.classes; ++c) published[c] = label_of(job, c);
  Buffer<float> weight_y;
  make_taps(job.h, job.H, first_y, weight_y);
  std::vector<int> begins(w + 1, W);  // of each cell's pixels
  for (int x = W - 1; x >= 0; --x) begins[columns.first[x]] = x;
  for (int c = w - 1; c >= 0; --c) begins[c] = std::min(begins[c], begins[c + 1]);
  Nodes above(w), below(w);
  Buffer<uint8_t> fill(W), fill_confidence(job.confidence ? W : 0);
  std::vector<int> places;
  const size_t padded = static_cast<size_t>(w) + kLanes;
  Buffer<float> copied;
  Buffer<float> values(static_cast<size_t>(kLanes) * kGroup * job.classes);
  // No confidence matters beyond: it is high enough, or the highest.
  const int enough = job.confidence ? 255 : job.least;
  const float least = enough ? (enough - 0.5f) / 255.0f * 1.0001f : 0.0f;
  bool loose = true;  // a vector may begin at any column
  for (int x = 0; x + kLanes <= columns.n; ++x)
    loose = loose && columns.first[x + kLanes - 1] - columns.first[x] + 1 < kLanes;
  bool numbers = true;
  int at = -1;  // row of the logits that `above` has
  Rows rows = {};
  for (int y = 0; y < job.H; ++y) {
    const int r = first_y[y], next = std::min(r + 1, job.h - 1);
    if (r != at) {
      if (at >= 0 && r == at + 1)
        std::swap(above, below);
      else
        numbers = look_at_nodes(job, r, least, above);
      numbers = look_at_nodes(job, next, least, below) && numbers;
      if (!numbers) return 3;
      at = r;
      fill_cells(above, below, std::max(w - 1, 1), w > 1, published.data(), cells.data());
      places.clear();
      for (int c = 0; c < w;) {
        const int from = c;
        while (c < w && cells[c] == cells[from]) ++c;
        const int x = begins[from], end = begins[c];
        if (x == end) continue;
        if (cells[from] >= 0) {
          std::memset(fill.data() + x, cells[from], end - x);
          if (job.confidence) std::memset(fill_confidence.data() + x, cells[from] == kIgnore ? 0 : 255, end - x);
          continue;
        }
        int place = loose ? x : x / kLanes * kLanes;
        if (!places.empty()) place = std::max(place, places.back() + kLanes);
        for (; place < end; place += kLanes) places.push_back(std::min(place, columns.n - kLanes));
      }
      while (places.size() % kGroup) places.push_back(places.back());
      // Behind the last rows of the last class there is nothing to read; a single column has no right neighbour.
      rows = {job.logits + static_cast<size_t>(r) * w, job.logits + static_cast<size_t>(next) * w, plane};
      if (w == 1 || static_cast<size_t>(next + 1) * w + kLanes > plane) {
        copied.assign(padded * 2 * job.classes, 0.0f);
        for (int c = 0; c < job.classes; ++c) {
          float* to = copied.data() + padded * 2 * c;
          for (const float* from : {rows.above, rows.below}) {
            std::memcpy(to, from + plane * c, sizeof(float) * w);
            to[w] = to[w - 1];
            to += padded;
          }
        }
        rows = {copied.data(), copied.data() + padded, 2 * padded};
      }
    }
    uint8_t* labels = job.labels + static_cast<size_t>(y) * W;
    uint8_t* confidence = job.confidence ? job.confidence + static_cast<size_t>(y) * W : nullptr;
    std::memcpy(labels, fill.data(), W);
    if (confidence) std::memcpy(confidence, fill_confidence.data(), W);
    for (size_t i = 0; i < places.size(); i += kGroup) {
      const int* group = places.data() + i;
      if (confidence)
        look_at_confidence(job, columns, rows, weight_y[y], group, published.data(), values.data(), labels, confidence);
      else if (job.least)
        look_at(job, columns, rows, weight_y[y], group, published.data(), values.data(), labels);
      else
        look_at_highest(job, columns, rows, weight_y[y], group, published.data(), labels);
    }
  }
  return 0;
}

}  // namespace upsample
