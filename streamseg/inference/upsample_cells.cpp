// Labels of a least confidence, without the confidence of each pixel.
//
// In a cell of the logits, between four of their values, each class is interpolated by the same weights. So a class
// that is the highest in all four corners is the highest in the whole cell. And the logarithm of a softmax is concave
// in the logits: nowhere in the cell is the class less probable than in its least probable corner. Such cells, most of
// a picture, are filled; exponentials are taken for the pixels of the others.
#include "upsample.h"

namespace upsample {
namespace {

// A row of the logits: of each cell the class with the highest value, and how clear that is.
struct Nodes {
  std::vector<int32_t> arg, sure;
  std::vector<float> best, second, large, sum;

  explicit Nodes(int w) : arg(w), sure(w), best(w), second(w), large(w), sum(w) {}
};

STREAMSEG_CLONES
void rank(const float* __restrict v, int n, int32_t c, float* __restrict best, float* __restrict second,
          float* __restrict large, int32_t* __restrict arg) {
  for (int x = 0; x < n; ++x) {
    const bool wins = v[x] > best[x];
    second[x] = std::max(second[x], std::min(v[x], best[x]));
    best[x] = wins ? v[x] : best[x];
    arg[x] = wins ? c : arg[x];
    large[x] = std::max(large[x], std::fabs(v[x]));
  }
}

// Add no less than exp, and 6 % more at most: between powers of two 2^t is below a straight line.
STREAMSEG_CLONES
void add_over_exp(const float* __restrict v, const float* __restrict best, float sharpness, int n,
                  float* __restrict sum) {
  for (int x = 0; x < n; ++x) {
    const float t = std::max(-120.0f, (v[x] - best[x]) * sharpness * 1.44269504f);
    const int32_t bits = static_cast<int32_t>((t + 127.0f) * 8388608.0f);
    float e;
    std::memcpy(&e, &bits, sizeof e);
    sum[x] += e;
  }
}

// least: as a probability.
void look_at_nodes(const Job& job, int r, float least, Nodes& to) {
  const int w = job.w;
  const size_t plane = static_cast<size_t>(job.h) * w;
  const float* row = job.logits + static_cast<size_t>(r) * w;
  std::fill(to.arg.begin(), to.arg.end(), 0);
  std::fill(to.best.begin(), to.best.end(), -INFINITY);
  std::fill(to.second.begin(), to.second.end(), -INFINITY);
  std::fill(to.large.begin(), to.large.end(), 0.0f);
  for (int c = 0; c < job.classes; ++c)
    rank(row + plane * c, w, c, to.best.data(), to.second.data(), to.large.data(), to.arg.data());
  if (!job.probabilities) {
    std::fill(to.sum.begin(), to.sum.end(), 0.0f);
    for (int c = 0; c < job.classes; ++c)
      add_over_exp(row + plane * c, to.best.data(), job.sharpness, w, to.sum.data());
  }
  for (int x = 0; x < w; ++x)
    to.sure[x] = job.probabilities ? to.best[x] >= least : to.sum[x] * least <= 1.0f;
}

// Whether they can be interpolated; as blend_rows() sees it.
STREAMSEG_CLONES
bool all_numbers(const float* v, size_t n) {
  int32_t largest = 0;
  for (size_t x = 0; x < n; ++x) {
    int32_t bits;
    std::memcpy(&bits, v + x, sizeof bits);
    largest = std::max(largest, bits & 0x7fffffff);
  }
  return largest <= 0x7cf0bdc2;
}

// What each cell between two rows is filled with; -1 where its pixels are looked at. The highest class of all corners
// must be clearly so: what is interpolated is rounded, at values as large as `large` to a millionth of them.
STREAMSEG_CLONES
void fill_cells(const Nodes& above, const Nodes& below, int w, const int32_t* published, int32_t* __restrict to) {
  const int32_t *a = above.arg.data(), *b = below.arg.data(), *as = above.sure.data(), *bs = below.sure.data();
  const float *ab = above.best.data(), *bb = below.best.data(), *a2 = above.second.data(), *b2 = below.second.data();
  const float *al = above.large.data(), *bl = below.large.data();
  for (int x = 0; x < w; ++x) {
    const int r = std::min(x + 1, w - 1);
    const bool same = (a[x] == a[r]) & (a[x] == b[x]) & (a[x] == b[r]);
    const float clear = std::min(std::min(ab[x] - a2[x], ab[r] - a2[r]), std::min(bb[x] - b2[x], bb[r] - b2[r]));
    const float large = std::max(std::max(al[x], al[r]), std::max(bl[x], bl[r]));
    const int32_t label = published[a[x]];
    const bool sure = ((as[x] & as[r] & bs[x] & bs[r]) != 0) | (label == kIgnore);
    to[x] = same & (clear > 1e-5f * large) & sure ? label : -1;
  }
}

inline __attribute__((always_inline)) Floats exps(Floats v) {
  const Floats t = (v > -87.0f ? v : Floats{} - 87.0f) * 1.44269504f;
  Ints whole = __builtin_convertvector(t, Ints);
  whole += __builtin_convertvector(whole, Floats) > t;  // towards minus infinity: a comparison is -1
  const Floats f = t - __builtin_convertvector(whole, Floats);
  const Floats p =
      1.0f + f * (0.693147180f + f * (0.240226507f + f * (0.0555041087f + f * (0.00961812911f + f * 0.00133335581f))));
  const Ints bits = (whole + 127) << 23;
  return p * load<Floats>(&bits);
}

// Two rows of every class, as their first values and how far apart classes are; kLanes values can be read from each.
struct Rows {
  const float *above, *below;
  size_t apart;
};

// The pixels of some vectors of an output row: as by_rows() has them.
STREAMSEG_CLONES
void look_at(const Job& job, const Columns& columns, const Rows& rows, float weight, const std::vector<int>& places,
             const int32_t* published, float* values, uint8_t* labels) {
  for (const int x : places) {
    const size_t first = columns.first[x];
    const Ints at = load<Ints>(columns.lane.data() + x);
    const Floats across = load<Floats>(columns.weight.data() + x);
    Floats best = Floats{} - INFINITY;
    Ints label = Ints{} + published[0];
    for (int c = 0; c < job.classes; ++c) {
      const Floats above = load<Floats>(rows.above + rows.apart * c + first);
      const Floats below = load<Floats>(rows.below + rows.apart * c + first);
      const Floats row = above + weight * (below - above);
      const Floats left = shuffle(row, at);
      const Floats right = shuffle(row, at + 1);
      const Floats v = left + across * (right - left);
      const Ints wins = v > best;
      best = wins ? v : best;
      label = wins ? Ints{} + published[c] : label;
      std::memcpy(values + c * kLanes, &v, sizeof v);
    }
    Floats confidence;
    if (job.probabilities) {
      Floats p = best;
      if (job.merges) {
        p = Floats{};
        for (int c = 0; c < job.classes; ++c) p += label == published[c] ? load<Floats>(values + c * kLanes) : Floats{};
      }
      p = p > 0.0f ? p : Floats{};
      p = p < 1.0f ? p : Floats{} + 1.0f;
      confidence = 255.0f * p + 0.5f;
    } else {
      Floats sum = Floats{}, members = Floats{} + (job.merges ? 0.0f : 1.0f);
      for (int c = 0; c < job.classes; ++c) {
        const Floats e = exps((load<Floats>(values + c * kLanes) - best) * job.sharpness);
        sum += e;
        if (job.merges) members += label == published[c] ? e : Floats{};
      }
      confidence = 255.0f * members / sum + 0.5f;
    }
    label = __builtin_convertvector(confidence, Ints) >= job.least ? label : Ints{} + kIgnore;
    uint8_t bytes[kLanes];
    for (int i = 0; i < kLanes; ++i) bytes[i] = static_cast<uint8_t>(label[i]);
    std::memcpy(labels + x, bytes, std::min(kLanes, job.W - x));
  }
}

}  // namespace

int by_cells(const Job& job, const Columns& columns) {
  const int w = job.w, W = job.W;
  const size_t plane = static_cast<size_t>(job.h) * w;
  if (!all_numbers(job.logits, plane * job.classes)) return 3;
  std::vector<int32_t> published(job.classes), first_y, cells(w);
  for (int c = 0; c < job.classes; ++c) published[c] = label_of(job, c);
  std::vector<float> weight_y;
  make_taps(job.h, job.H, first_y, weight_y);
  std::vector<int> begins(w + 1, W);  // of each cell's pixels
  for (int x = W - 1; x >= 0; --x) begins[columns.first[x]] = x;
  for (int c = w - 1; c >= 0; --c) begins[c] = std::min(begins[c], begins[c + 1]);
  Nodes above(w), below(w);
  std::vector<uint8_t> fill(W);
  std::vector<int> places;
  const size_t padded = static_cast<size_t>(w) + kLanes;
  std::vector<float> copied;
  std::vector<float> values(static_cast<size_t>(kLanes) * job.classes);
  const float least = (job.least - 0.5f) / 255.0f * 1.0001f;
  int at = -1;  // row of the logits that `above` has
  Rows rows = {};
  for (int y = 0; y < job.H; ++y) {
    const int r = first_y[y], next = std::min(r + 1, job.h - 1);
    if (r != at) {
      if (at >= 0 && r == at + 1)
        std::swap(above, below);
      else
        look_at_nodes(job, r, least, above);
      look_at_nodes(job, next, least, below);
      at = r;
      fill_cells(above, below, w, published.data(), cells.data());
      places.clear();
      for (int c = 0; c < w;) {
        const int from = c;
        while (c < w && cells[c] == cells[from]) ++c;
        const int x = begins[from], end = begins[c];
        if (x == end) continue;
        if (cells[from] >= 0) {
          std::memset(fill.data() + x, cells[from], end - x);
          continue;
        }
        int place = x / kLanes * kLanes;
        if (!places.empty() && places.back() == place) place += kLanes;
        for (; place < end; place += kLanes) places.push_back(place);
      }
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
    std::memcpy(labels, fill.data(), W);
    look_at(job, columns, rows, weight_y[y], places, published.data(), values.data(), labels);
  }
  return 0;
}

}  // namespace upsample
