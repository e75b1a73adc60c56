#include <algorithm>

#include "mean_field.h"

namespace ss {
namespace {

constexpr int kBandPixels = 2048;  // about as many as stay in the cache between look-up, slice and output
constexpr size_t kKnown = 2048;    // simplices remembered per part: neighbours mostly share theirs

// The points round each pixel, as far as the coarse lattice has them; others read as zeros.
void look_up(const Lattice& lattice, const uint64_t* key, const uint64_t* ranks, size_t count, Known* known,
             uint32_t* vertices) {
  const int nv = lattice.nv;
  constexpr size_t ahead = 10;
  for (size_t i = 0; i < count; ++i) {
    if (i + ahead < count) {
      lattice.announce_simplex(key[i + ahead], ranks[i + ahead]);
      lattice.point.announce(key[i + ahead]);
    }
    uint32_t* mine = vertices + i * nv;
    if (i && key[i] == key[i - 1] && ranks[i] == ranks[i - 1]) {
      for (int v = 0; v < nv; ++v) mine[v] = mine[v - nv];
      continue;
    }
    Known& slot = known[(key[i] ^ (ranks[i] << 40)) * 0x9E3779B97F4A7C15ull >> 53];
    if (slot.key != key[i] || slot.ranks != ranks[i]) {
      slot.key = key[i];
      slot.ranks = ranks[i];
      const uint32_t simplex = lattice.find_simplex(key[i], ranks[i]);
      if (simplex != kNone) {
        const uint32_t* whole = lattice.vertices.data() + size_t(simplex) * nv;
        for (int v = 0; v < nv; ++v) slot.vertices[v] = whole[v];
      } else {
        int axes[kCodedDims + 1];
        lattice.axes_of(ranks[i], axes);
        uint64_t at = key[i];
        uint32_t point = kNone;
        for (int v = 0; v < nv; ++v) {
          point = point == kNone ? lattice.point.find(at) : lattice.point.link[size_t(point) * nv + axes[v - 1]];
          slot.vertices[v] = point == kNone ? lattice.points : point;
          at += lattice.step[axes[v]];
        }
      }
    }
    for (int v = 0; v < nv; ++v) mine[v] = slot.vertices[v];
  }
}

// Coordinates of the finest grid's pixels [begin, end) in a term's lattice.
void place(const ss_crf_job& job, const ss_crf_term& given, const Term& term, const Kernels& kernels,
           const Grid& finest, size_t begin, size_t end, FinishScratch& s, Known* known, float* weights,
           uint32_t* vertices) {
  const size_t count = end - begin;
  const size_t padded = (count + kPad - 1) / kPad * kPad;
  const float* list[kCodedDims];
  float* planes = s.features.data() + 2 * padded;  // divided in place
  if (given.sigma_channels) image_planes(job, finest, begin, end, planes, padded);
  term_features(job, given, finest, planes, begin, end, s.features.data(), padded);
  for (int k = 0; k < term.nv - 1; ++k) {
    float* f = s.features.data() + k * padded;
    std::fill(f + count, f + padded, f[0]);
    list[k] = f;
  }
  kernels.embed(term.lattice.plan, list, padded, weights, s.key.data(), s.ranks.data(), nullptr);
  look_up(term.lattice, s.key.data(), s.ranks.data(), count, known, vertices);
}

}  // namespace

void finish(Workspace& space, const ss_crf_job& job, const Kernels& kernels, Team& team, const Grid& finest, int row) {
  const int parts = part_count(job.threads);
  const int lines = std::max(1, kBandPixels / finest.width);
  const size_t most = (size_t(lines) * finest.width + kPad - 1) / kPad * kPad;
  while (space.finish.size() < size_t(parts)) space.finish.push_back(std::make_unique<FinishScratch>());
  for (int part = 0; part < parts; ++part) {
    FinishScratch& s = *space.finish[part];
    s.key.need(most);
    s.ranks.need(most);
    s.features.need(most * kCodedDims);
    s.rows.need(most * row);
    s.list.resize(job.term_count);
    if (s.terms.size() < size_t(job.term_count)) s.terms = std::vector<FinishTermScratch>(job.term_count);
    for (int t = 0; t < job.term_count; ++t) {
      s.terms[t].weights.need(most * space.terms[t]->nv);
      s.terms[t].vertices.need(most * space.terms[t]->nv);
      Known* known = s.terms[t].known.need(kKnown);
      for (size_t i = 0; i < kKnown; ++i) known[i].ranks = ~uint64_t{0};
    }
  }
  for (int t = 0; t < job.term_count; ++t) {
    Term& term = *space.terms[t];
    if (job.terms[t].sigma_channels || term.finer_stride == finest.stride) continue;
    // Room for a whole band more: coordinates are made for padded numbers of pixels.
    float* weights = term.finer_weights.need((finest.pixels + kPad) * term.nv);
    uint32_t* vertices = term.finer_vertices.need(finest.pixels * term.nv);
    for (size_t begin = 0; begin < finest.pixels; begin += size_t(lines) * finest.width) {
      const size_t end = std::min(begin + size_t(lines) * finest.width, finest.pixels);
      place(job, job.terms[t], term, kernels, finest, begin, end, *space.finish[0],
            space.finish[0]->terms[t].known.data(), weights + begin * term.nv, vertices + begin * term.nv);
    }
    const FinishTerm all = {term.nv, nullptr, term.norm_values.data(), vertices, weights, term.normalisation,
                            term.alpha, false};
    kernels.fold_norm(all, finest.pixels, weights);
    term.finer_stride = finest.stride;
  }
  space.unary.aim(finest, row);
  bool fine[kMaxParts];
  team.each(parts, [&](int part) {
    FinishScratch& s = *space.finish[part];
    fine[part] = true;
    FinishTerm* list = s.list.data();
    const int bands = (finest.height + lines - 1) / lines;
    for (int band = bands * part / parts; band < bands * (part + 1) / parts; ++band) {
      const int y = band * lines, y_end = std::min(y + lines, finest.height);
      const size_t begin = size_t(y) * finest.width, end = size_t(y_end) * finest.width;
      for (int t = 0; t < job.term_count; ++t) {
        const Term& term = *space.terms[t];
        const uint32_t* vertices = term.finer_vertices.data() + begin * term.nv;
        const float* weights = term.finer_weights.data() + begin * term.nv;
        if (job.terms[t].sigma_channels) {
          FinishTermScratch& own = s.terms[t];
          place(job, job.terms[t], term, kernels, finest, begin, end, s, own.known.data(), own.weights.data(),
                own.vertices.data());
          vertices = own.vertices.data();
          weights = own.weights.data();
        }
        list[t] = {term.nv, term.values.data(), term.norm_values.data(), vertices, weights, term.normalisation,
                   term.alpha, !job.terms[t].sigma_channels};
      }
      fine[part] = space.unary.fill(begin, end, s.rows.data()) && fine[part];
      kernels.finish({job.term_count, row, list, s.rows.data(), 0, end - begin});
      kernels.planes_from_rows(s.rows.data(), row, job.classes, finest.pixels, begin, end, job.probabilities,
                               job.log_probabilities, job.labels);
    }
  });
  for (int part = 0; part < parts; ++part) refuse_unless_finite(fine[part], "unary");
}

}  // namespace ss
