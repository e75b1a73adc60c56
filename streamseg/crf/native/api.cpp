// The C interface: checks everything once, chooses the instruction set, turns exceptions into codes.
#include <cmath>
#include <cstdio>

#include "mean_field.h"
#include "streamseg_crf.h"

struct ss_crf_workspace {
  ss::Workspace space;
};

namespace {

using ss::Refusal;

void refuse_unless(bool fine, const std::string& what) {
  if (!fine) throw Refusal(SS_CRF_ARGUMENT, what);
}

bool power_of_two_to_8(int v) { return v == 1 || v == 2 || v == 4 || v == 8; }

void check_term(const ss_crf_job& job, int index) {
  const ss_crf_term& t = job.terms[index];
  const std::string name = "term " + std::to_string(index) + ": ";
  refuse_unless(t.normalisation >= 0 && t.normalisation <= 3, name + "no such normalisation");
  refuse_unless(t.compat && t.compat_kind >= 0 && t.compat_kind <= 2, name + "no compatibility");
  const size_t weights = t.compat_kind == SS_CRF_POTTS       ? 1
                         : t.compat_kind == SS_CRF_PER_CLASS ? size_t(job.classes)
                                                             : size_t(job.classes) * job.classes;
  for (size_t i = 0; i < weights; ++i)
    if (!(std::fabs(t.compat[i]) <= 1e20f)) throw Refusal(SS_CRF_NAN, name + "a compatibility is NaN or above 1e20");
  if (t.features) {
    refuse_unless(t.dims >= 1 && t.dims <= ss::kMaxDims,
                  name + std::to_string(t.dims) + " features; must be 1 to " + std::to_string(ss::kMaxDims));
    refuse_unless(job.lattice_stride == 1 && job.out_stride <= 8, name + "features of its own need lattice stride 1");
    return;
  }
  refuse_unless(t.sigma_x > 0 && t.sigma_y > 0 && std::isfinite(t.sigma_x) && std::isfinite(t.sigma_y),
                name + "sigma_xy must be above 0");
  if (!t.sigma_channels) return;
  refuse_unless(job.image_type != SS_CRF_IMAGE_NONE, name + "needs an image");
  refuse_unless(2 + job.channels <= ss::kCodedDims,
                name + std::to_string(job.channels) + " channels; at most " + std::to_string(ss::kCodedDims - 2));
  for (int c = 0; c < job.channels; ++c)
    refuse_unless(t.sigma_channels[c] > 0 && std::isfinite(t.sigma_channels[c]),
                  name + "sigmas of channels must be above 0");
}

void check(const ss_crf_job& job) {
  refuse_unless(job.classes >= 1 && job.classes <= 65536, "classes must be 1 to 65536");
  refuse_unless(job.height >= 1 && job.width >= 1, "the picture is empty");
  refuse_unless(int64_t(job.height) * job.width <= (int64_t(1) << 28), "the picture has more than 2^28 pixels");
  refuse_unless(job.logits && job.logits_height >= 1 && job.logits_width >= 1, "no logits");
  refuse_unless(job.logits_height <= job.height && job.logits_width <= job.width, "logits are larger than the picture");
  refuse_unless(job.image_type >= 0 && job.image_type <= 2, "no such image type");
  refuse_unless(job.image_type == SS_CRF_IMAGE_NONE || (job.image && job.channels >= 1), "no image");
  refuse_unless(job.term_count >= 1 && job.term_count <= ss::kMaxTerms && job.terms,
                "pairwise terms must be 1 to " + std::to_string(ss::kMaxTerms));
  refuse_unless(job.iterations >= 0 && job.iterations <= 100000, "iterations must be 0 to 100000");
  refuse_unless(power_of_two_to_8(job.lattice_stride) && power_of_two_to_8(job.out_stride), "strides are 1, 2, 4 or 8");
  refuse_unless(job.threads >= 1 && job.threads <= 1024, "threads must be 1 to 1024");
  refuse_unless(job.probabilities || job.log_probabilities || job.labels, "nowhere to write to");
  refuse_unless(!job.labels || job.classes <= 256, "labels are 8-bit: at most 256 classes");
  const bool full = job.lattice_stride == 1 && job.logits_height == job.height && job.logits_width == job.width;
  refuse_unless(!job.start || full, "start needs full-resolution logits and lattice");
  refuse_unless(!(job.flags & SS_CRF_FILTER) || (full && job.out_stride == 1 && !job.log_probabilities && !job.labels),
                "a filter works at full resolution");
  for (int t = 0; t < job.term_count; ++t) check_term(job, t);
}

int32_t checked_set(int instruction_set) {
  const int best = ss_crf_instruction_set();
  const int wanted = instruction_set == SS_CRF_ISA_AUTO ? best : instruction_set;
  refuse_unless(wanted >= SS_CRF_ISA_PORTABLE && wanted <= SS_CRF_ISA_AVX512, "no such instruction set");
  refuse_unless(wanted <= best, "this machine lacks that instruction set");
  return wanted;
}

// A vector of 16 floats is mostly padding for few classes, and rows are as long as vectors.
const ss::Kernels& kernels_of(int instruction_set, int classes) {
#if defined(SS_HAVE_X86)
  if (instruction_set == SS_CRF_ISA_AVX512 && classes > 8) return *ss::kernels_avx512();
  if (instruction_set != SS_CRF_ISA_PORTABLE) return classes > 4 ? *ss::kernels_avx2() : *ss::kernels_narrow();
#endif
  (void)instruction_set, (void)classes;
  return *ss::kernels_portable();
}

}  // namespace

extern "C" {

int32_t ss_crf_abi(void) { return SS_CRF_ABI; }

int32_t ss_crf_instruction_set(void) {
#if defined(SS_HAVE_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return SS_CRF_ISA_AVX512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return SS_CRF_ISA_AVX2;
#endif
  return SS_CRF_ISA_PORTABLE;
}

ss_crf_workspace* ss_crf_workspace_new(void) { return new (std::nothrow) ss_crf_workspace; }

void ss_crf_workspace_free(ss_crf_workspace* space) { delete space; }

int32_t ss_crf_run(ss_crf_workspace* space, const ss_crf_job* job, ss_crf_stats* stats, char* message,
                   size_t message_size) {
  const auto say = [&](int code, const char* what) {
    if (message && message_size) std::snprintf(message, message_size, "%s", what);
    return code;
  };
  try {
    refuse_unless(space && job, "no workspace or job");
    check(*job);
    const int32_t set = checked_set(job->instruction_set);
    if (stats) {
      *stats = {};
      stats->instruction_set = set;
    }
    ss::run(space->space, *job, kernels_of(set, job->classes), stats);
    return say(SS_CRF_OK, "");
  } catch (const Refusal& refusal) {
    return say(refusal.code, refusal.what());
  } catch (const std::bad_alloc&) {
    return say(SS_CRF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return say(SS_CRF_INTERNAL, error.what());
  } catch (...) {
    return say(SS_CRF_INTERNAL, "unknown failure");
  }
}

}  // extern "C"
