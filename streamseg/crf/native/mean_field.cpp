#include "mean_field.h"

#include <algorithm>

namespace ss {
namespace {

struct Loop {
  Workspace& space;
  const ss_crf_job& job;
  const Kernels& kernels;
  Team& team;
  const Grid& grid;
  const std::vector<Part>& parts;
  int row;
  bool whole;                           // rows of all pixels are kept, instead of put out band by band

  std::vector<Term*> order;             // main term first
  std::vector<std::vector<PassTerm>> passes;  // per part
  std::vector<float> centre;                  // of probabilities: taken off before they are splatted
  std::vector<Wave> waves;                    // per part and term: how far it has come
  size_t ring_floats = 0, most = 0;     // most: pixels of a band

  Loop(Workspace& space, const ss_crf_job& job, const Kernels& kernels, Team& team, const Grid& grid,
       const std::vector<Part>& parts, int main, int row, bool whole)
      : space(space), job(job), kernels(kernels), team(team), grid(grid), parts(parts), row(row), whole(whole) {
    for (int i = 0; i < job.term_count; ++i) order.push_back(space.terms[i == 0 ? main : i <= main ? i - 1 : i].get());
    for (const Part& part : parts) {
      std::vector<PassTerm> list;
      for (const Term* term : order) list.push_back(term->as_pass(int(&part - parts.data()), row));
      passes.push_back(std::move(list));
      for (const Band& band : part.bands) most = std::max(most, band.end - band.begin);
    }
    // What is the same in all classes is nothing to soft-max, and where pixels are undecided all but a little is: without it,
    // rounding is as small as that little, and mean field may grow it as it does.
    bool potts = !(job.flags & SS_CRF_FILTER);
    for (int t = 0; t < job.term_count; ++t) potts = potts && job.terms[t].compat_kind == SS_CRF_POTTS;
    centre.assign(row, 0.0f);
    if (potts) std::fill(centre.begin(), centre.begin() + job.classes, 1.0f / float(job.classes));
    waves.resize(parts.size() * order.size());
    space.packed.need(grid.pixels * job.classes + row);
    space.bands.need((most + 1) * row * parts.size());
    if (whole) space.rows.need(grid.pixels * row);
    for (const Term* term : order)
      for (const std::vector<Wave>* list : {&term->inner, &term->outer})
        for (const Wave& w : *list) ring_floats = std::max(ring_floats, 2 * (size_t(w.ring) + 1) * row);
    space.rings.need(ring_floats * parts.size() * order.size());
  }

  float* rings(int part, size_t term) { return space.rings.data() + ring_floats * (part * order.size() + term); }

  // Rows from planes of probabilities, or of any values.
  bool plain_rows(const float* planes, const Band& band, float* to) const {
    return kernels.rows_from_planes(planes, grid.pixels, job.classes, band.begin, band.end, to, row, 0.0f, -3e38f);
  }

  // Calls work(pass, band) for the bands of every part. Throws Refusal where it answers false for one.
  template <class Work>
  void each_band(Step step, bool splat, const char* what, const Work& work) {
    bool fine[kMaxParts];
    for (size_t t = 0; t < order.size(); ++t)
      for (size_t part = 0; part < order[t]->inner.size(); ++part) waves[part * order.size() + t] = order[t]->inner[part];
    team.each(int(parts.size()), [&](int index) {
      fine[index] = true;
      Pass p{};
      p.step = step;
      p.lanes = job.classes;
      p.row = row;
      p.terms = int(order.size());
      p.term = passes[index].data();
      p.place = order[0]->place.data();
      p.unary = job.flags & SS_CRF_FILTER ? nullptr : space.packed.data();
      p.centre = centre.data();
      p.scratch = space.bands.data() + (most + 1) * row * index;
      Wave* wave = waves.data() + order.size() * index;
      // Blur leaves the sums empty behind it, except those of waves.
      const auto clears = [&](const Term& term) { return splat && (step == Step::kFirst || term.lattice.reach); };
      for (Term* term : order)
        if (clears(*term)) term->clear_copies(index, row);
      const std::vector<Band>& bands = parts[index].bands;
      for (size_t band = 0; band < bands.size(); ++band) {
        p.begin = bands[band].begin;
        p.end = bands[band].end;
        p.group = order[0]->groups_of(parts, index, band);
        p.groups = order[0]->band_groups[index][band + 1] - order[0]->band_groups[index][band];
        p.rows = whole && step == Step::kLast ? space.rows.data() + p.begin * row : p.scratch + row;
        for (Term* term : order)
          if (clears(*term)) term->clear_sums(index, band, row);
        fine[index] = work(p, bands[band]) && fine[index];
        for (size_t t = 0; t < order.size() && splat; ++t) {  // while the sums are still in the cache
          Term& term = *order[t];
          if (term.inner.empty()) continue;
          const int64_t limit = band + 1 < bands.size() ? term.ready[index][band] : term.lattice.points;
          kernels.wave(wave[t], limit, term.sums.data(), term.values.data(), row, term.factor.data(),
                       rings(index, t));
        }
      }
    });
    for (size_t part = 0; part < parts.size(); ++part) refuse_unless_finite(fine[part], what);
  }

  void put_out(const Pass& p, const Band& band) const {
    if (whole) return;
    kernels.planes_from_rows(p.rows, row, job.classes, grid.pixels, band.begin, band.end, job.probabilities,
                             job.log_probabilities, job.labels);
  }

  // The first splat: of the unary's soft-max, of given probabilities or, for a filter, of the input.
  void begin() {
    const bool filter = job.flags & SS_CRF_FILTER;
    each_band(Step::kFirst, true, filter ? "the input" : "unary", [&](Pass& p, const Band& band) {
      if (filter) {
        const bool fine = plain_rows(job.logits, band, p.rows);
        p.splat = true;
        kernels.pass(p);
        return fine;
      }
      bool fine = space.unary.fill(band.begin, band.end, p.rows);
      p.keep = true;
      p.soft = p.splat = !job.start;
      kernels.pass(p);
      if (!job.start) return fine;
      fine = plain_rows(job.start, band, p.rows) && fine;
      p.keep = false;
      p.splat = true;
      kernels.pass(p);
      return fine;
    });
  }

  // Without iterations: the unary's soft-max.
  void only() {
    each_band(Step::kFirst, false, "unary", [&](Pass& p, const Band& band) {
      const bool fine = space.unary.fill(band.begin, band.end, p.rows);
      p.soft = true;
      kernels.pass(p);
      if (whole) std::memcpy(space.rows.data() + p.begin * row, p.rows, sizeof(float) * row * (p.end - p.begin));
      put_out(p, band);
      return fine;
    });
  }

  void step() {
    each_band(Step::kMiddle, true, "", [&](Pass& p, const Band&) {
      kernels.pass(p);
      return true;
    });
  }

  void end() {
    each_band(Step::kLast, false, "", [&](Pass& p, const Band& band) {
      p.soft = !(job.flags & SS_CRF_FILTER);
      kernels.pass(p);
      put_out(p, band);
      return true;
    });
  }

  // One axis a phase, except for lattices of positions: of those only the outer points are left.
  void blur() {
    int axes = 0;
    const int count = int(parts.size());
    for (Term* term : order) {
      axes = std::max(axes, term->lattice.reach ? 1 : term->nv);
      if (term->lattice.reach) term->gather_copies(row);
    }
    for (int axis = 0; axis < axes; ++axis) {
      team.each(count, [&](int part) {
        for (size_t t = 0; t < order.size(); ++t) {
          Term& term = *order[t];
          if (term.lattice.reach) {
            for (size_t i = part; i < term.outer.size() && !axis; i += count) {
              Wave w = term.outer[i];
              kernels.wave(w, w.points, term.sums.data(), term.values.data(), row, term.factor.data(), rings(part, t));
            }
            continue;
          }
          const BlurChain chain = axis < term.nv ? term.chain_of(axis, part) : BlurChain{};
          if (chain.begin >= chain.end) continue;
          if (axis == 0) {
            kernels.blur_first(chain, term.sums.data(), term.values.data(), row, term.factor.data(), term.shares());
          } else {
            kernels.blur(chain, term.values.data(), row);
          }
        }
      });
    }
    for (Term* term : order) {
      if (term->matrix.empty()) continue;
      team.each(count, [&](int part) {
        const size_t points = term->lattice.points;
        kernels.mix(term->values.data(), points * part / count, points * (part + 1) / count,
                    job.classes, row, term->matrix.data(), space.bands.data() + (most + 1) * row * part);
      });
    }
  }
};

// Parts of a picture, and bands within them that fit the second-level cache.
std::vector<Part> parts_of(size_t pixels, int count) {
  constexpr size_t band_pixels = 4096;
  std::vector<Part> parts(count);
  for (int i = 0; i < count; ++i) {
    Part& part = parts[i];
    part.begin = pixels * i / count / kPad * kPad;
    part.end = i + 1 == count ? pixels : pixels * (i + 1) / count / kPad * kPad;
    const size_t some = part.end - part.begin, bands = (some + band_pixels - 1) / band_pixels;
    for (size_t b = 0; b < bands; ++b)
      part.bands.push_back({part.begin + some * b / bands, part.begin + some * (b + 1) / bands});
  }
  return parts;
}

// Means of probabilities over blocks of `step` x `step` lattice pixels, in place.
void shrink(const Grid& from, const Grid& to, int row, float* rows) {
  const int step = to.stride / from.stride;
  for (int y = 0; y < to.height; ++y) {
    for (int x = 0; x < to.width; ++x) {
      float* out = rows + (size_t(y) * to.width + x) * row;
      const int y1 = std::min((y + 1) * step, from.height), x1 = std::min((x + 1) * step, from.width);
      const float share = 1.0f / float((y1 - y * step) * (x1 - x * step));
      float sum[4096 / sizeof(float)];
      for (int at = 0; at < row; at += 1024) {
        const int some = std::min(row - at, 1024);
        std::fill(sum, sum + some, 0.0f);
        for (int v = y * step; v < y1; ++v)
          for (int u = x * step; u < x1; ++u)
            for (int c = 0; c < some; ++c) sum[c] += share * rows[(size_t(v) * from.width + u) * row + at + c];
        std::copy(sum, sum + some, out + at);
      }
    }
  }
}

void put_out(const ss_crf_job& job, const Kernels& kernels, Team& team, size_t pixels, int row, const float* rows) {
  const int parts = 4 * team.size();
  team.each(parts, [&](int part) {
    const size_t begin = pixels * part / parts;
    kernels.planes_from_rows(rows + begin * row, row, job.classes, pixels, begin, pixels * (part + 1) / parts,
                             job.probabilities, job.log_probabilities, job.labels);
  });
}

}  // namespace

void run(Workspace& space, const ss_crf_job& job, const Kernels& kernels, ss_crf_stats* stats) {
  Team team(job.threads);
  const int width = kernels.width;
  const int row = (job.classes + width - 1) / width * width;
  const Grid out(job.height, job.width, job.out_stride);
  // Without iterations there is nothing to do on a coarser grid.
  const Grid grid(job.height, job.width, job.iterations ? job.lattice_stride : std::min(job.lattice_stride, out.stride));
  const bool finishes = out.stride < grid.stride, shrinks = out.stride > grid.stride;

  const std::vector<Part> parts = parts_of(grid.pixels, part_count(job.threads));
  int main = 0, most = 0;
  while (space.terms.size() < size_t(job.term_count)) space.terms.push_back(std::make_unique<Term>());
  for (int t = 0; t < job.term_count; ++t) {
    const int dims = term_dims(job, job.terms[t]);
    if (dims > most) most = dims, main = t;
  }
  for (int t = 0; t < job.term_count; ++t) {
    Term& term = *space.terms[t];
    term.prepare(job, job.terms[t], kernels, team, grid, parts, t == main);
    const float area = job.terms[t].normalisation == SS_CRF_NORM_NONE ? float(grid.stride * grid.stride) : 1.0f;
    term.set_compat(job, job.terms[t], row, area);
    term.make_rows(row, int(parts.size()));
    if (stats && t < 8) {
      stats->points[t] = int32_t(term.lattice.points);
      stats->simplices[t] = int32_t(term.lattice.simplices);
    }
  }

  Loop loop(space, job, kernels, team, grid, parts, main, row, shrinks);
  if (job.flags & SS_CRF_FILTER) {
    loop.begin();
    loop.blur();
    return loop.end();
  }
  space.unary.prepare(job, kernels, team, row, grid.stride);
  space.unary.aim(grid, row);
  if (job.iterations == 0) {
    loop.only();
  } else {
    loop.begin();
    for (int i = 1; i < job.iterations; ++i) {
      loop.blur();
      loop.step();
    }
    loop.blur();
    if (finishes) return finish(space, job, kernels, team, out, row);
    loop.end();
  }
  if (!shrinks) return;
  shrink(grid, out, row, space.rows.data());
  put_out(job, kernels, team, out.pixels, row, space.rows.data());
}

}  // namespace ss
