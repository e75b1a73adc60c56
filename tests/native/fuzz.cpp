// Runs the libraries of the CRF, fusion and zones on random jobs, good and bad ones, under AddressSanitizer and UBSan.
//
//   cmake -S . -B build-sanitize -DSTREAMSEG_SANITIZE=ON && cmake --build build-sanitize
//   build-sanitize/crf_fuzz 300 1        jobs, seed
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <set>
#include <vector>

#include "../../streamseg/refinement/blend.h"
#include "streamseg_crf.h"

extern "C" {
void ss_count_zones(const uint8_t* labels, const uint8_t* confidence, int32_t height, int32_t width,
                    const int64_t* first, const int32_t* ends, const int32_t* sets, uint64_t* pixels, uint64_t* sums);
void ss_count_ground(const uint8_t* labels, int32_t height, int32_t width, int64_t runs, const int32_t* rows,
                     const int32_t* begins, const int32_t* ends, const double* to_ground, double* areas);
int64_t ss_zone_edges(const double* points, const int32_t* rings, int32_t ring_count, int32_t height, int32_t width,
                      int64_t* firsts, uint32_t* crossings, int64_t* keys);
int32_t ss_zone_spans(const int64_t* keys, int64_t* at, const int64_t* ends_at, int32_t zones, int32_t height,
                      int32_t width, int32_t most, int32_t slot_bits, uint64_t* flips, int32_t* slots, int64_t* first,
                      int32_t* ends, int32_t* sets, uint64_t* members);
}

namespace {

struct Random {
  std::mt19937 engine;
  int whole(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine); }
  float real(float low, float high) { return std::uniform_real_distribution<float>(low, high)(engine); }
  bool chance(float p) { return real(0, 1) < p; }
  int one_of(std::initializer_list<int> list) { return list.begin()[whole(0, int(list.size()) - 1)]; }
  std::vector<float> floats(size_t count, float low, float high) {
    std::vector<float> v(count);
    for (float& x : v) x = real(low, high);
    return v;
  }
};

void fail(int job, const char* what, const char* message) {
  std::fprintf(stderr, "job %d: %s: %s\n", job, what, message);
  std::exit(1);
}

void one_job(Random& random, ss_crf_workspace* space, int number) {
  const int classes = random.chance(0.1f) ? random.whole(33, 150) : random.whole(1, 32);
  const int height = random.whole(1, 70), width = random.whole(1, 70), channels = random.whole(1, 6);
  const size_t pixels = size_t(height) * width;
  const bool own_features = random.chance(0.2f);
  const int stride = own_features ? 1 : random.one_of({1, 1, 2, 4, 8});
  const int out_stride = random.one_of({1, 1, 2, 4, 8});
  const bool small = random.chance(0.3f);
  const int lh = small ? random.whole(1, height) : height, lw = small ? random.whole(1, width) : width;
  std::vector<float> logits = random.floats(size_t(classes) * lh * lw, -8, 8);
  const bool as_bytes = random.chance(0.5f);
  std::vector<float> picture = random.floats(pixels * channels, 0, 255);
  std::vector<unsigned char> bytes(picture.begin(), picture.end());
  std::vector<float> start = random.floats(size_t(classes) * pixels, 0, 1);

  const bool nan = random.chance(0.05f);
  if (nan) logits[random.whole(0, int(logits.size()) - 1)] = NAN;
  const bool bad_picture = !as_bytes && random.chance(0.05f);
  if (bad_picture) picture[0] = INFINITY;

  const int count = random.chance(0.05f) ? random.whole(9, 20) : random.whole(1, 4);
  std::vector<ss_crf_term> terms(count);
  std::vector<std::vector<float>> keep;
  for (ss_crf_term& term : terms) {
    term = {};
    term.sigma_x = random.real(0.5f, 60);
    term.sigma_y = random.chance(0.02f) ? -1.0f : random.real(0.5f, 60);
    if (own_features) {
      term.dims = random.chance(0.1f) ? random.whole(16, 40) : random.whole(1, 9);
      keep.push_back(random.floats(term.dims * pixels, -20, 20));
      if (random.chance(0.05f)) keep.back()[0] = 1e30f;
      if (random.chance(0.05f)) keep.back()[0] = NAN;
      term.features = keep.back().data();
    } else if (random.chance(0.6f)) {
      keep.push_back(random.floats(channels, random.chance(0.1f) ? 1e-7f : 1.0f, 30));
      term.sigma_channels = keep.back().data();
    }
    term.compat_kind = random.whole(0, 2);
    const size_t weights = term.compat_kind == 0 ? 1 : term.compat_kind == 1 ? classes : size_t(classes) * classes;
    keep.push_back(random.floats(weights, -2, 10));
    term.compat = keep.back().data();
    term.normalisation = random.whole(0, 3);
  }

  ss_crf_job job{};
  job.classes = classes;
  job.height = height;
  job.width = width;
  job.channels = channels;
  job.logits_height = lh;
  job.logits_width = lw;
  job.logits = logits.data();
  job.start = random.chance(0.1f) ? start.data() : nullptr;
  job.image = as_bytes ? static_cast<const void*>(bytes.data()) : picture.data();
  job.image_type = random.chance(0.03f) ? SS_CRF_IMAGE_NONE : as_bytes ? SS_CRF_IMAGE_U8 : SS_CRF_IMAGE_F32;
  job.term_count = random.chance(0.02f) ? random.one_of({-1, 0, 257}) : count;
  job.terms = terms.data();
  job.iterations = random.whole(0, 4);
  job.lattice_stride = stride;
  job.out_stride = out_stride;
  job.threads = random.one_of({1, 1, 2, 3, 5});
  job.instruction_set = random.whole(0, ss_crf_instruction_set());
  job.flags = (random.chance(0.3f) ? SS_CRF_KEEP_LATTICE : 0) | (random.chance(0.1f) ? SS_CRF_FILTER : 0);
  const int oh = (height + out_stride - 1) / out_stride, ow = (width + out_stride - 1) / out_stride;
  std::vector<float> probabilities(size_t(classes) * oh * ow, -1.0f), logs(probabilities);
  std::vector<unsigned char> labels(size_t(oh) * ow, 255);
  job.probabilities = probabilities.data();
  const bool filter = job.flags & SS_CRF_FILTER;
  if (!filter && random.chance(0.5f)) job.log_probabilities = logs.data();
  if (!filter && random.chance(0.5f)) job.labels = labels.data();

  char message[256];
  ss_crf_stats stats;
  for (int again = random.whole(1, 2); again > 0; --again) {
    const int code = ss_crf_run(space, &job, &stats, message, sizeof message);
    if (code == SS_CRF_INTERNAL || code == SS_CRF_MEMORY) fail(number, "failed", message);
    if (code != SS_CRF_OK && !message[0]) fail(number, "refused", "without a word");
    if (nan && code == SS_CRF_OK) fail(number, "took", "NaN");
    if (code != SS_CRF_OK || filter || job.start) continue;
    for (size_t i = 0; i < size_t(oh) * ow; ++i) {
      double sum = 0;
      for (int c = 0; c < classes; ++c) sum += probabilities[size_t(c) * oh * ow + i];
      if (!(std::fabs(sum - 1) < 1e-3)) {
        std::snprintf(message, sizeof message, "sum to %g: %d classes, %dx%d, stride %d, out %d, %d iterations", sum,
                      classes, height, width, stride, out_stride, job.iterations);
        fail(number, "probabilities", message);
      }
      if (job.labels && labels[i] >= classes) fail(number, "labels", "out of range");
    }
  }
}

void one_blend(Random& random, int number) {
  const int classes = random.chance(0.1f) ? random.whole(33, 255) : random.whole(1, 40);
  const int height = random.whole(2, 60), width = random.whole(2, 60);
  const bool same = random.chance(0.2f);
  const int from_height = same ? height : random.whole(1, 40), from_width = same ? width : random.whole(1, 40);
  const size_t pixels = size_t(height) * width, row = ss_blend_row(classes);
  const std::vector<float> fresh = random.floats(size_t(classes) * from_height * from_width, -90, 90);
  const std::vector<float> earlier = random.floats(pixels * row, 0, 1), trust = random.floats(256, 0, 1);
  std::vector<float> where = random.floats(pixels * 2, -10, 70);
  for (int i = random.whole(0, 5); i > 0; --i)
    where[random.whole(0, int(where.size()) - 1)] = random.chance(0.5f) ? NAN : random.real(-1, 1) * 1e30f;
  const std::vector<uint8_t> grey(pixels, uint8_t(random.whole(0, 255))), then(pixels, uint8_t(random.whole(0, 255)));
  const ss_blend_past past{earlier.data(), then.data(), where.data(), random.real(0, 0.9f)};
  std::vector<float> rows(pixels * row, -1.0f), logs(pixels * classes, 1.0f);
  ss_blend_job job{};
  job.logits = fresh.data();
  job.classes = classes;
  job.from_height = from_height;
  job.from_width = from_width;
  job.height = height;
  job.width = width;
  job.grey = grey.data();
  job.refined = random.chance(0.5f) ? &past : nullptr;
  job.before = random.chance(0.5f) ? &past : nullptr;
  job.trust = trust.data();
  job.soften = random.real(0, 0.1f);
  job.least = 1e-6f;
  job.rows = rows.data();
  job.log_planes = random.chance(0.7f) ? logs.data() : nullptr;
  if (ss_blend_run(&job) != 0) fail(number, "blend", "refused");
  for (const float p : rows)
    if (!(p >= 0.0f && p < 1.5f)) fail(number, "blend", "not a probability");
  job.classes = 0;
  if (ss_blend_run(&job) != 1) fail(number, "blend", "took no classes");
}

void one_count(Random& random, int number) {
  const int height = random.whole(1, 40), width = random.chance(0.2f) ? random.whole(1, 8) : random.whole(1, 200);
  const int sets = random.whole(1, 5), labels_used = random.one_of({1, 2, 21, 256});
  const size_t pixels = size_t(height) * width;
  std::vector<uint8_t> labels(pixels), confidence(pixels);
  uint8_t label = 0;
  const float changes = float(random.one_of({0, 3, 50, 100})) / 100;
  for (size_t i = 0; i < pixels; ++i) {
    if (random.chance(changes)) label = uint8_t(random.whole(0, labels_used - 1));
    labels[i] = label;
    confidence[i] = uint8_t(random.whole(0, 255));
  }
  std::vector<int64_t> first{0};
  std::vector<int32_t> ends, of_span, rows, begins, run_ends;
  std::vector<uint64_t> expected(size_t(sets) * 256), expected_sums(expected), counted(expected), sums(expected);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width;) {
      const int end = random.whole(x + 1, width), set = random.whole(0, sets - 1);
      ends.push_back(end);
      of_span.push_back(set);
      rows.push_back(y);
      begins.push_back(x);
      run_ends.push_back(end);
      for (; x < end; ++x) {
        const size_t at = size_t(y) * width + x;
        ++expected[size_t(set) * 256 + labels[at]];
        expected_sums[size_t(set) * 256 + labels[at]] += confidence[at];
      }
    }
    first.push_back(int64_t(ends.size()));
  }
  const bool sure = random.chance(0.5f);
  ss_count_zones(labels.data(), sure ? confidence.data() : nullptr, height, width, first.data(), ends.data(),
                 of_span.data(), counted.data(), sure ? sums.data() : nullptr);
  if (counted != expected) fail(number, "count", "other pixels");
  if (sure && sums != expected_sums) fail(number, "count", "another confidence");
  const double flat[9] = {width * 2.0, 0, 0, 0, height * 1.0, 0, 0, 0, 1};  // a pixel is 2 by 1
  std::vector<double> areas(256);
  ss_count_ground(labels.data(), height, width, int64_t(rows.size()), rows.data(), begins.data(), run_ends.data(), flat,
                  areas.data());
  for (int i = 0; i < 256; ++i) {
    uint64_t all = 0;
    for (int s = 0; s < sets; ++s) all += expected[size_t(s) * 256 + i];
    if (std::fabs(areas[i] - 2.0 * double(all)) > 1e-6 * double(pixels)) fail(number, "count", "another area");
  }
}

// Zones of random rings, some of whose points lie on centres and edges of pixels.
void one_raster(Random& random, int number) {
  const int height = random.whole(1, 40), width = random.chance(0.2f) ? random.whole(1, 8) : random.whole(1, 200);
  const int zones = random.whole(0, 64), most = random.one_of({5, 4096});
  std::vector<uint64_t> expected(size_t(height) * width);
  std::vector<int64_t> keys, at{0};
  for (int zone = 0; zone < zones; ++zone) {
    const int ring_count = random.chance(0.1f) ? 17 : random.whole(1, 3);
    std::vector<double> points;
    std::vector<int32_t> rings;
    double room = 0;
    std::vector<uint8_t> in(expected.size(), 0);
    for (int ring = 0; ring < ring_count; ++ring) {
      const int corners = random.chance(0.05f) ? 256 : random.whole(3, 8), begin = int(points.size());
      for (int i = 0; i < 2 * corners; ++i)
        points.push_back(random.chance(0.4f) ? random.whole(0, 8) / 8.0 : random.whole(0, 1000000) / 1e6);
      rings.push_back(int32_t(points.size() / 2));
      std::vector<uint8_t> inside(expected.size(), 0);
      for (int i = 0; i < corners; ++i) {
        const double *one = &points[size_t(begin + 2 * i)], *other = &points[size_t(begin + 2 * ((i + 1) % corners))];
        room += std::fabs(other[1] - one[1]) * height + 2;
        for (int y = 0; y < height; ++y) {
          const double py = (y + 0.5) / height;
          if ((one[1] > py) == (other[1] > py)) continue;
          const volatile double along = (other[0] - one[0]) * (py - one[1]);  // not contracted with what follows
          const double crossing = along / (other[1] - one[1]) + one[0];
          for (int x = 0; x < width; ++x) inside[size_t(y) * width + x] ^= (x + 0.5) / width < crossing;
        }
      }
      for (size_t i = 0; i < in.size(); ++i)
        if (inside[i]) in[i] = ring == 0;
    }
    for (size_t i = 0; i < in.size(); ++i) expected[i] |= uint64_t(in[i]) << zone;
    std::vector<int64_t> firsts(size_t(height) + 1), found(size_t(room), 0);
    std::vector<uint32_t> crossings(found.size());
    const int64_t count = ss_zone_edges(points.data(), rings.data(), ring_count, height, width, firsts.data(),
                                        crossings.data(), found.data());
    keys.insert(keys.end(), found.begin(), found.begin() + count);
    at.push_back(int64_t(keys.size()));
  }
  const std::vector<int64_t> ends_at(at.begin() + 1, at.end());
  const size_t room = std::min(keys.size() + size_t(height), expected.size());
  std::vector<int64_t> first(size_t(height) + 1);
  std::vector<int32_t> ends(room), sets(room), slots(most == 5 ? 16 : 16384, -1);
  std::vector<uint64_t> members(static_cast<size_t>(most)), flips(size_t(width) + 1);
  const int known = ss_zone_spans(keys.data(), at.data(), ends_at.data(), zones, height, width, most, most == 5 ? 4 : 14,
                                  flips.data(), slots.data(), first.data(), ends.data(), sets.data(), members.data());
  if (known < 0) {
    if (std::set<uint64_t>(expected.begin(), expected.end()).size() <= size_t(most)) fail(number, "raster", "gave up");
    return;
  }
  for (int y = 0; y < height; ++y) {
    int x = 0;
    for (int64_t span = first[size_t(y)]; span < first[size_t(y) + 1]; ++span)
      for (; x < ends[size_t(span)]; ++x)
        if (members[size_t(sets[size_t(span)])] != expected[size_t(y) * width + x]) fail(number, "raster", "other pixels");
    if (x != width) fail(number, "raster", "a row is not whole");
  }
}

}  // namespace

int main(int count, char** words) {
  const int jobs = count > 1 ? std::atoi(words[1]) : 200;
  Random random{std::mt19937(count > 2 ? std::atoi(words[2]) : 1)};
  ss_crf_workspace* space = ss_crf_workspace_new();
  for (int i = 0; i < jobs; ++i) {
    one_job(random, space, i);
    one_blend(random, i);
    one_count(random, i);
    one_raster(random, i);
    if (random.chance(0.05f)) {
      ss_crf_workspace_free(space);
      space = ss_crf_workspace_new();
    }
  }
  ss_crf_workspace_free(space);
  std::printf("%d jobs\n", jobs);
  return 0;
}
