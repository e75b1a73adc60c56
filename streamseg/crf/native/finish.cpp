#include <algorithm>

#include "mean_field.h"

namespace ss {
namespace {

constexpr size_t kBand = 2048;    // pixels whose coordinates stay in the cache between look-up and slice

// The points round each pixel, as far as the coarse lattice has them; others read as zeros.
void look_up(const Lattice& lattice, const uint64_t* key, const uint64_t* ranks, size_t count, uint32_t* vertices) {
  const int nv = lattice.nv;
  constexpr size_t ahead = 12;
  for (size_t i = 0; i < count; ++i) {
    uint64_t k;
    uint32_t extra;
    if (i + ahead < count) {
      lattice.simplex_key(key[i + ahead], ranks[i + ahead], &k, &extra);
      lattice.by_simplex.prefetch(k, extra);
    }
    uint32_t* mine = vertices + i * nv;
    if (i && key[i] == key[i - 1] && ranks[i] == ranks[i - 1]) {
      std::copy(mine - nv, mine, mine);
      continue;
    }
    lattice.simplex_key(key[i], ranks[i], &k, &extra);
    const uint32_t simplex = lattice.by_simplex.find(k, extra);
    if (simplex != kNone) {
      const uint32_t* known = lattice.vertices.data() + size_t(simplex) * nv;
      std::copy(known, known + nv, mine);
      continue;
    }
    int axes[kMaxDims + 1];
    lattice.axes_of(ranks[i], axes);
    uint64_t at = key[i];
    for (int v = 0; v < nv; ++v) {
      const uint32_t before = v ? mine[v - 1] : lattice.points;
      uint32_t point = kNone;
      if (before < lattice.points) {
        point = lattice.link[size_t(before) * nv + axes[v - 1]];
      } else {
        point = lattice.by_point.find(at, 0);
      }
      mine[v] = point == kNone ? lattice.points : point;
      at += lattice.step[axes[v]];
    }
  }
}

}  // namespace

void finish(Workspace& space, const ss_crf_job& job, const Kernels& kernels, Team& team, const Grid& finest, int row) {
  const int parts = part_count(job.threads);
  while (space.finish.size() < size_t(parts)) space.finish.push_back(std::make_unique<FinishScratch>());
  for (int part = 0; part < parts; ++part) {
    FinishScratch& s = *space.finish[part];
    s.key.need(kBand);
    s.ranks.need(kBand);
    for (int t = 0; t < job.term_count; ++t) {
      s.weights[t].need(kBand * space.terms[t]->nv);
      s.vertices[t].need(kBand * space.terms[t]->nv);
    }
  }
  const size_t bands = (finest.pixels + kBand - 1) / kBand;
  float* rows = space.finest_unary.data();
  team.each(parts, [&](int part) {
    FinishScratch& s = *space.finish[part];
    FinishTerm list[8];
    for (size_t band = bands * part / parts; band < bands * (part + 1) / parts; ++band) {
      const size_t begin = band * kBand;
      const size_t count = std::min(kBand, finest.pixels - begin);
      const size_t padded = (count + kPad - 1) / kPad * kPad;
      for (int t = 0; t < job.term_count; ++t) {
        const Term& term = *space.terms[t];
        const float* features[kMaxDims];
        for (int k = 0; k < term.nv - 1; ++k) features[k] = term.finest_features.data() + k * finest.padded;
        kernels.embed(term.lattice.plan, features, begin, padded, s.weights[t].data(), s.key.data(), s.ranks.data());
        look_up(term.lattice, s.key.data(), s.ranks.data(), count, s.vertices[t].data());
        list[t] = {term.nv, term.values.data(), term.norm_values.data(), s.vertices[t].data(), s.weights[t].data(),
                   term.normalisation, term.alpha};
      }
      const Finish f = {job.term_count, row, list, rows + begin * row, 0, count};
      kernels.finish(f);
    }
  });
}

}  // namespace ss
