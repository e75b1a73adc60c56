#include "mean_field.h"

#include <algorithm>

namespace ss {
namespace {

// Where a pixel's probabilities have come to rest, neither slicing nor splatting them changes anything (docs/design/0006).
constexpr float kStill = 1e-4f, kSettled = 2.5e-5f;
constexpr uint8_t kRestPasses = 3, kSettledPasses = 9;

struct Loop {
  Workspace& space;
  const ss_crf_job& job;
  const Kernels& kernels;
  Team& team;
  const std::vector<Part>& parts;
  int main, row;

  std::vector<PassTerm> passes;         // main term first
  std::vector<Term*> order;
  size_t ring_floats = 0, most = 0;     // most: pixels of a band

  Loop(Workspace& space, const ss_crf_job& job, const Kernels& kernels, Team& team, const std::vector<Part>& parts,
       int main, int row)
      : space(space), job(job), kernels(kernels), team(team), parts(parts), main(main), row(row) {
    for (int i = 0; i < job.term_count; ++i) {
      const int t = i == 0 ? main : (i <= main ? i - 1 : i);
      order.push_back(space.terms[t].get());
      passes.push_back(order.back()->as_pass());
    }
    for (const Part& part : parts)
      for (const Band& band : part.bands) most = std::max(most, band.end - band.begin);
    const size_t visits = parts.back().end;
    space.lists.need((most + kListPad) * parts.size());
    std::memset(space.rest.need(visits), 0, visits);
    space.added.need(visits * row);
    space.scratch.need(2 * size_t(row) * parts.size());
    for (const Term* term : order)
      for (const std::vector<Wave>* list : {&term->inner, &term->outer})
        for (const Wave& w : *list) ring_floats = std::max(ring_floats, 2 * (size_t(w.ring) + 1) * row);
    space.rings.need(ring_floats * parts.size() * order.size());
  }

  float* rings(int part, size_t term) { return space.rings.data() + ring_floats * (part * order.size() + term); }

  void pass(bool slice, bool splat, bool plain, float* unary) {
    team.each(int(parts.size()), [&](int index) {
      uint32_t below[kMaxTerms], shift[kMaxTerms];
      for (size_t t = 0; t < order.size(); ++t) {
        below[t] = order[t]->first_of_part[index];
        shift[t] = order[t]->copy_of_part[index];
      }
      Pass p{};
      p.lanes_used = job.classes;
      p.row = row;
      p.terms = int(passes.size());
      p.term = passes.data();
      p.visits = {order[0]->visit_simplex.data(), order[0]->visit_pixel.data()};
      p.unary = unary;
      p.added = space.added.data();
      p.rest = space.rest.data();
      p.still = kStill;
      p.rest_passes = kRestPasses;
      p.settled = kSettled;
      p.settled_passes = kSettledPasses;
      p.slice = slice;
      p.splat = splat;
      p.plain = plain;
      p.shared_below = below;
      p.shared_shift = shift;
      p.list = space.lists.data() + (most + kListPad) * index;
      p.scratch = space.scratch.data() + 2 * size_t(row) * index;
      Wave waves[kMaxTerms];
      for (size_t t = 0; t < order.size(); ++t)
        if (!order[t]->inner.empty()) waves[t] = order[t]->inner[index];
      const std::vector<Band>& bands = parts[index].bands;
      for (size_t band = 0; band < bands.size(); ++band) {
        p.begin = bands[band].begin;
        p.end = bands[band].end;
        kernels.pass(p);
        for (size_t t = 0; t < order.size() && splat; ++t) {  // while the sums are still in the cache
          Term& term = *order[t];
          if (term.inner.empty()) continue;
          const int64_t limit = band + 1 < bands.size() ? term.ready[index][band] : term.lattice.points;
          kernels.wave(waves[t], limit, term.sums.data(), term.values.data(), row, term.factor.data(),
                       rings(index, t));
        }
      }
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
            kernels.blur_first(chain, term.sums.data(), term.values.data(), row, term.factor.data(),
                               term.shared.data(), term.copies.data());
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
                    job.classes, row, term->matrix.data(), space.scratch.data() + 2 * size_t(row) * part);
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
  const bool finishes = out.stride < grid.stride;
  if (job.image_type != SS_CRF_IMAGE_NONE) {
    float* planes = space.planes.need(grid.padded * job.channels);
    const int shares = 4 * team.size();
    team.each(shares, [&](int share) {
      const int begin = grid.height * share / shares, end = grid.height * (share + 1) / shares;
      image_lines(job, grid, begin, end, planes + size_t(begin) * grid.width, grid.padded);
    });
    for (int c = 0; c < job.channels; ++c)
      std::fill(planes + c * grid.padded + grid.pixels, planes + (c + 1) * grid.padded, planes[c * grid.padded]);
  }

  const std::vector<Part> parts = parts_of(grid.pixels, part_count(job.threads));
  int main = 0, most = 0;
  while (space.terms.size() < size_t(job.term_count)) space.terms.push_back(std::make_unique<Term>());
  for (int t = 0; t < job.term_count; ++t) {
    const int dims = term_dims(job, job.terms[t]);
    if (dims > most) most = dims, main = t;
  }
  for (int t = 0; t < job.term_count; ++t) {
    Term& term = *space.terms[t];
    term.prepare(job, job.terms[t], kernels, team, grid, space.planes.data(), parts, t == main);
    const float area = job.terms[t].normalisation == SS_CRF_NORM_NONE ? float(grid.stride * grid.stride) : 1.0f;
    term.set_compat(job, job.terms[t], row, area);
    term.make_rows(row, int(parts.size()));
    if (stats && t < 8) {
      stats->points[t] = int32_t(term.lattice.points);
      stats->simplices[t] = int32_t(term.lattice.simplices);
    }
  }

  float* rows = space.rows.need(grid.pixels * row);
  Loop loop(space, job, kernels, team, parts, main, row);
  const auto plain_rows = [&](const float* planes, float* to, const char* what) {
    if (!kernels.rows_from_planes(planes, grid.pixels, job.classes, 0, grid.pixels, to, row, 0.0f, -3e38f))
      throw Refusal(SS_CRF_NAN, std::string(what) + " holds NaN");
  };
  if (job.flags & SS_CRF_FILTER) {
    plain_rows(job.logits, rows, "the input");
    loop.pass(false, true, true, rows);
    loop.blur();
    std::memset(rows, 0, sizeof(float) * grid.pixels * row);
    loop.pass(true, false, true, rows);
  } else {
    space.unary.prepare(job, kernels, team, row);
    space.unary.aim(job, grid, row);
    space.unary.fill(kernels, team, grid, rows);
    if (job.iterations == 0) {
      loop.pass(false, false, false, rows);
    } else if (job.start) {
      plain_rows(job.start, space.start.need(grid.pixels * row), "start");
      loop.pass(false, true, true, space.start.data());
    } else {
      loop.pass(false, true, false, rows);
    }
    for (int i = 1; i <= job.iterations; ++i) {
      loop.blur();
      if (i < job.iterations || !finishes) loop.pass(true, i < job.iterations, false, rows);
    }
  }

  if (finishes) return finish(space, job, kernels, team, out, row);
  if (out.stride > grid.stride) shrink(grid, out, row, rows);
  put_out(job, kernels, team, out.pixels, row, rows);
}

}  // namespace ss
