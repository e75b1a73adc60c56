#include "term.h"

#include <algorithm>
#include <cmath>

namespace ss {
namespace {

void append(std::vector<unsigned char>& to, const void* data, size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(data);
  to.insert(to.end(), p, p + bytes);
}

template <class T>
void append(std::vector<unsigned char>& to, const T& value) {
  append(to, &value, sizeof value);
}

}  // namespace

void Term::prepare(const ss_crf_job& job, const ss_crf_term& term, const Kernels& kernels, Team& team, const Grid& grid,
                   const std::vector<Part>& parts, bool main) {
  const int dims = term_dims(job, term);
  const bool looks = term.features || term.sigma_channels;
  const bool keep = !looks || (job.flags & SS_CRF_KEEP_LATTICE);
  float least[kMaxDims], most[kMaxDims];
  term_bounds(job, term, grid, least, most);
  std::vector<unsigned char> made_from;
  const void* seen = term.features ? static_cast<const void*>(term.features) : job.image;
  const size_t bytes = term.features         ? sizeof(float) * dims * grid.pixels
                       : term.sigma_channels ? size_t(job.height) * job.width * job.channels *
                                                   (job.image_type == SS_CRF_IMAGE_U8 ? 1 : sizeof(float))
                                             : 0;
  if (keep) {
    const int part_total = int(parts.size());
    for (int v : {grid.stride, job.height, job.width, term.normalisation, part_total, int(main), kernels.width, dims,
                  term.features ? 1 : 0, term.sigma_channels ? job.channels : 0, job.image_type})
      append(made_from, v);
    append(made_from, term.sigma_x);
    append(made_from, term.sigma_y);
    append(made_from, least, sizeof(float) * dims);
    append(made_from, most, sizeof(float) * dims);
    if (!term.features && term.sigma_channels) append(made_from, term.sigma_channels, sizeof(float) * job.channels);
    if (made_from == cached && (!bytes || !std::memcmp(looked_at.data(), seen, bytes))) return;
  }
  cached.clear();
  finer_stride = 0;
  normalisation = term.normalisation;
  const Features features = [&](size_t begin, size_t end, float* to, size_t pitch) {
    float* planes = to + 2 * pitch;  // divided in place
    if (!term.features && term.sigma_channels) image_planes(job, grid, begin, end, planes, pitch);
    term_features(job, term, grid, planes, begin, end, to, pitch);
  };
  lattice.build(kernels, team, features, dims, grid.pixels, least, most);
  nv = lattice.nv;
  alpha = 1.0f / (1.0f + std::pow(2.0f, -float(dims)));
  apart = main && nv != 3;
  cut(parts);
  plan_waves(parts);
  make_norm(kernels, team, parts);
  if (main) order(team, parts);
  if (keep && bytes) std::memcpy(looked_at.need(bytes), seen, bytes);
  cached.swap(made_from);
}

// Each part gets about the same share of every axis' chains; the first row a part meets decides which points it shares.
void Term::cut(const std::vector<Part>& parts) {
  const int count = int(parts.size());
  first_of_part.assign(count, 0);
  copy_of_part.assign(count, 0);
  copies.clear();
  fresh.assign(count, {});
  copied.assign(count, {});
  uint32_t most_simplex = 0, most_point = 0, simplices_seen = 0;
  uint32_t rows = lattice.points + 1 + uint32_t(count);
  for (int part = 0; part < count; ++part) {
    if (part) {
      first_of_part[part] = most_point;
      copy_of_part[part] = rows;
      copies.push_back(most_point);
      copies.push_back(rows);
      rows += apart ? lattice.points + 1 : most_point;
    }
    for (const Band& band : parts[part].bands) {
      for (size_t i = band.begin; i < band.end; ++i) most_simplex = std::max(most_simplex, lattice.simplex[i] + 1);
      const uint32_t* v = lattice.vertices.data();
      for (size_t i = size_t(simplices_seen) * nv; i < size_t(most_simplex) * nv; ++i)
        most_point = std::max(most_point, v[i] + 1);
      simplices_seen = most_simplex;
      fresh[part].push_back(most_point);
    }
  }
  copies.push_back(kNone);
  row_total = rows;

  // A point is shared where a simplex of a later part touches it.
  shared.assign(lattice.points / 32 + 1, 0);
  local.need(lattice.simplices);
  for (int part = 1; part < count; ++part) {
    const uint32_t below = first_of_part[part];
    uint32_t* touched = local.data();
    std::memset(touched, 0, sizeof(uint32_t) * lattice.simplices);
    for (size_t i = parts[part].begin; i < parts[part].end; ++i) touched[lattice.simplex[i]] = 1;
    for (uint32_t s = 0; s < lattice.simplices; ++s) {
      if (!touched[s]) continue;
      for (int k = 0; k < nv; ++k) {
        const uint32_t v = lattice.vertices[size_t(s) * nv + k];
        if (v < below) shared[v >> 5] |= 1u << (v & 31);
      }
    }
  }
  for (uint32_t word = 0; word < shared.size(); ++word)
    for (uint32_t bits = shared[word]; bits; bits &= bits - 1)
      for (int part = 1; part < count; ++part)
        if (const uint32_t p = word * 32 + uint32_t(__builtin_ctz(bits)); p < first_of_part[part]) copied[part].push_back(p);

  cuts.assign(nv, {});
  for (int axis = 0; axis < nv; ++axis) {
    const uint32_t* stream = lattice.chain[axis].data();
    const size_t length = lattice.chain_length[axis];
    for (int part = 0; part < count; ++part) {
      size_t at = length * part / count;
      while (at < length && stream[at] != zero_row()) ++at;
      cuts[axis].push_back(part ? at : 0);
    }
    cuts[axis].push_back(length);
  }
}

void Term::make_norm(const Kernels& kernels, Team& team, const std::vector<Part>& parts) {
  float* ones = norm_values.need(row_total);
  std::memset(ones, 0, sizeof(float) * row_total);
  const int count = int(parts.size());
  const auto each_pixel = [&](const auto& act) {
    with_dims(nv - 1, [&](const auto dims) {
      team.each(count, [&](int part) {
        const size_t n = dims + 1;
        const uint32_t *simplex = lattice.simplex.data(), *vertices = lattice.vertices.data();
        float* bary = lattice.bary.data();
        for (size_t i = parts[part].begin; i < parts[part].end; ++i)
          act(part, i, vertices + simplex[i] * n, bary + i * n, n);
      });
    });
  };
  each_pixel([&](int part, size_t, const uint32_t* v, const float* b, size_t n) {
    const uint32_t below = first_of_part[part], shift = copy_of_part[part];
    for (size_t k = 0; k < n; ++k) ones[v[k] + (v[k] < below ? shift : 0u)] += b[k];
  });
  for (int part = 1; part < count; ++part)
    for (uint32_t p = 0; p < first_of_part[part]; ++p) ones[p] += ones[size_t(p) + copy_of_part[part]];
  for (int axis = 0; axis < nv; ++axis) {
    team.each(count, [&](int part) {
      const BlurChain chain = chain_of(axis, part);
      if (chain.begin < chain.end) kernels.blur_scalar(chain, ones);
    });
  }
  float* factors = norm.need(lattice.pixels);
  each_pixel([&](int, size_t i, const uint32_t* v, float* b, size_t n) {
    float sum = 0.0f;
    for (size_t k = 0; k < n; ++k) sum += b[k] * ones[v[k]];
    sum *= alpha;
    factors[i] = normalisation == SS_CRF_NORM_NONE        ? 1.0f
                 : normalisation == SS_CRF_NORM_SYMMETRIC ? 1.0f / std::sqrt(sum + 1e-20f)
                                                          : 1.0f / (sum + 1e-20f);
    if (normalisation != SS_CRF_NORM_SYMMETRIC) return;
    for (size_t k = 0; k < n; ++k) b[k] *= factors[i];  // folded into the weights
  });
}

// Brings pixels of one simplex together within bands that fit the second-level cache.
void Term::order(Team& team, const std::vector<Part>& parts) {
  const int total = int(parts.size());
  const size_t n = lattice.pixels;
  place.need(n + kVisitPad);
  std::memset(place.data() + n, 0, sizeof(uint16_t) * kVisitPad);
  groups.need(n + total * kGroupPad);
  band_groups.assign(total, {});
  local.need(size_t(lattice.simplices) * total);
  size_t most = 0;
  for (const Part& part : parts) {
    for (const Band& band : part.bands) most = std::max(most, band.end - band.begin);
    band_groups[&part - parts.data()].resize(part.bands.size() + 1);
  }
  count.need(most * total);
  permuted.need(most * (nv + 1) * total);
  const bool gains = normalisation == SS_CRF_NORM_BEFORE || normalisation == SS_CRF_NORM_AFTER;
  float* bary = lattice.bary.data();
  const auto order_part = [&](int index, const auto dims) {
    const size_t n = dims + 1;
    uint32_t* group_of = local.data() + size_t(index) * lattice.simplices;
    std::memset(group_of, 0, sizeof(uint32_t) * lattice.simplices);
    uint32_t* size = count.data() + most * index;  // of each group; then where its next pixel goes
    float* by = permuted.data() + most * (nv + 1) * index;
    float* gain = by + most * nv;
    Group* out = groups.data() + parts[index].begin + index * kGroupPad;
    size_t made = 0;
    uint32_t begun = 1;                            // 0 is a simplex that no band has met
    for (size_t b = 0; b < parts[index].bands.size(); ++b) {
      const Band& band = parts[index].bands[b];
      band_groups[index][b] = made;
      uint32_t next = begun;
      for (size_t i = band.begin; i < band.end; ++i) {
        uint32_t& g = group_of[lattice.simplex[i]];
        if (g < begun) {
          g = next++;
          size[g - begun] = 0;
          out[made + g - begun].simplex = lattice.simplex[i];
        }
        ++size[g - begun];
      }
      uint32_t at = uint32_t(band.begin);
      for (uint32_t g = 0; g < next - begun; ++g) {
        const uint32_t some = size[g];
        size[g] = at;
        at += some;
        out[made++].end = at;
      }
      std::memcpy(by, lattice.bary.data() + band.begin * nv, sizeof(float) * nv * (band.end - band.begin));
      if (gains) std::memcpy(gain, norm.data() + band.begin, sizeof(float) * (band.end - band.begin));
      for (size_t i = band.begin; i < band.end; ++i) {
        const uint32_t to = size[group_of[lattice.simplex[i]] - begun]++;
        place[to] = uint16_t(i - band.begin);
        for (size_t k = 0; k < n; ++k) bary[to * n + k] = by[(i - band.begin) * n + k];
        if (gains) norm[to] = gain[i - band.begin];
      }
      begun = next;
    }
    band_groups[index].back() = made;
    const Group last = made ? out[made - 1] : Group{};
    for (size_t i = 0; i < kGroupPad; ++i) out[made + i] = last;
  };
  with_dims(nv - 1, [&](const auto dims) { team.each(total, [&](int index) { order_part(index, dims); }); });
}

void Term::set_compat(const ss_crf_job& job, const ss_crf_term& term, int row, float extra) {
  const int lanes = job.classes;
  factor.assign(row, 0.0f);
  matrix.clear();
  for (int c = 0; c < lanes; ++c) {
    const float by = term.compat_kind == SS_CRF_POTTS       ? term.compat[0]
                     : term.compat_kind == SS_CRF_PER_CLASS ? term.compat[c]
                                                            : 1.0f;
    factor[c] = alpha * by * extra;
  }
  if (term.compat_kind != SS_CRF_MATRIX) return;
  matrix.assign(size_t(lanes) * row, 0.0f);
  for (int to = 0; to < lanes; ++to)
    for (int from = 0; from < lanes; ++from) matrix[size_t(from) * row + to] = -term.compat[to * lanes + from];
}

void Term::make_rows(int row, int parts) {
  sums.need(size_t(row_total) * row);
  values.need(size_t(lattice.points + 1 + parts) * row);
  std::memset(values.data() + size_t(zero_row()) * row, 0, sizeof(float) * row);
  std::memset(sums.data() + size_t(zero_row()) * row, 0, sizeof(float) * row * (1 + parts));
}

void Term::clear_sums(int part, size_t band, int row) {
  const uint32_t begin = band ? fresh[part][band - 1] : first_of_part[part], end = fresh[part][band];
  std::memset(sums.data() + (size_t(begin) + own_shift(part)) * row, 0, sizeof(float) * row * (end - begin));
}

void Term::clear_copies(int part, int row) {
  for (const uint32_t p : copied[part])
    std::memset(sums.data() + (size_t(p) + copy_of_part[part]) * row, 0, sizeof(float) * row);
}

void Term::gather_copies(int row) {
  for (uint32_t p = 0; p < lattice.points; ++p) {
    if (!(shared[p >> 5] >> (p & 31) & 1)) {
      if (!shared[p >> 5]) p |= 31;
      continue;
    }
    float* to = sums.data() + size_t(p) * row;
    for (const uint32_t* copy = copies.data(); *copy != kNone; copy += 2) {
      if (p >= copy[0]) continue;
      float* from = sums.data() + (size_t(p) + copy[1]) * row;
      for (int i = 0; i < row; ++i) to[i] += from[i], from[i] = 0.0f;
    }
  }
}

Wave Term::wave_over(int64_t begin, int64_t end) const {
  Wave w{};
  w.near = lattice.near.data();
  w.points = lattice.points;
  w.reach = lattice.reach;
  w.begin = begin;
  w.end = end;
  w.ring = 256;
  while (w.ring < 2 * w.reach + 192) w.ring *= 2;
  w.at[0] = std::max<int64_t>(begin - 2 * w.reach, 0);
  w.at[1] = std::max<int64_t>(begin - w.reach, 0);
  w.at[2] = begin;
  return w;
}

void Term::plan_waves(const std::vector<Part>& parts) {
  inner.clear();
  outer.clear();
  ready.clear();
  if (!lattice.reach) return;
  const int count = int(parts.size());
  const int64_t points = lattice.points, halo = 3 * int64_t(lattice.reach);
  ready.resize(count);
  inner.resize(count);
  int64_t later = points;  // the first point that parts after this one touch
  for (int part = count - 1; part >= 0; --part) {
    const int64_t own_begin = first_of_part[part];
    const int64_t own_end = part + 1 < count ? std::min<int64_t>(later, first_of_part[part + 1]) : points;
    const int64_t begin = part ? own_begin + halo : 0, end = part + 1 < count ? own_end - halo : points;
    if (begin < end) inner[part] = wave_over(begin, end);
    int64_t first = points;
    ready[part].resize(parts[part].bands.size());
    for (size_t band = parts[part].bands.size(); band-- > 0;) {
      ready[part][band] = first;  // what bands after this one do not touch any more
      for (size_t i = parts[part].bands[band].begin; i < parts[part].bands[band].end; ++i) {
        const uint32_t* v = lattice.vertices.data() + size_t(lattice.simplex[i]) * nv;
        for (int k = 0; k < nv; ++k) first = std::min<int64_t>(first, v[k]);
      }
    }
    later = std::min(later, first);
  }
  int64_t at = 0;
  for (const Wave& w : inner) {
    if (w.begin >= w.end) continue;
    if (at < w.begin) outer.push_back(wave_over(at, w.begin));
    at = w.end;
  }
  if (at < points) outer.push_back(wave_over(at, points));
}

PassTerm Term::as_pass(int part, int row) const {
  PassTerm p{};
  p.nv = nv;
  p.values = values.data();
  p.sums = const_cast<float*>(sums.data()) + size_t(own_shift(part)) * row;
  p.weights = lattice.bary.data();
  p.simplex = lattice.simplex.data();
  p.vertices = lattice.vertices.data();
  p.scattered = lattice.points > lattice.pixels / 4;
  p.gain_out = normalisation == SS_CRF_NORM_AFTER ? norm.data() : nullptr;
  p.gain_in = normalisation == SS_CRF_NORM_BEFORE ? norm.data() : nullptr;
  p.below = apart ? 0 : first_of_part[part];
  p.shift = apart ? 0 : copy_of_part[part];
  return p;
}

}  // namespace ss
