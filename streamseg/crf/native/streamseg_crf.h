/* Fully connected CRF by mean field on the permutohedral lattice: the C interface.
 *
 * Krähenbühl, Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials", 2011 (algorithm 1);
 * Adams, Baek, Davis, "Fast high-dimensional filtering using the permutohedral lattice", 2010.
 *
 * Nothing here keeps global state. A workspace belongs to one call at a time; it keeps memory and, where a term does
 * not depend on the picture, its lattice. Every function returns SS_CRF_OK or a code, and writes a sentence to `message`.
 */
#ifndef STREAMSEG_CRF_H
#define STREAMSEG_CRF_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define SS_CRF_API __declspec(dllexport)
#else
#define SS_CRF_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define SS_CRF_ABI 1

enum {
  SS_CRF_OK = 0,
  SS_CRF_ARGUMENT = 1, /* a shape, a size or a parameter that cannot be */
  SS_CRF_NAN = 2,      /* NaN (or infinity where none can be) in an array */
  SS_CRF_KEY = 3,      /* lattice coordinates do not fit */
  SS_CRF_MEMORY = 4,
  SS_CRF_INTERNAL = 5
};

enum { SS_CRF_IMAGE_NONE = 0, SS_CRF_IMAGE_U8 = 1, SS_CRF_IMAGE_F32 = 2 };
enum { SS_CRF_POTTS = 0, SS_CRF_PER_CLASS = 1, SS_CRF_MATRIX = 2 };
enum { SS_CRF_NORM_NONE = 0, SS_CRF_NORM_BEFORE = 1, SS_CRF_NORM_AFTER = 2, SS_CRF_NORM_SYMMETRIC = 3 };
enum { SS_CRF_ISA_AUTO = 0, SS_CRF_ISA_PORTABLE = 1, SS_CRF_ISA_AVX2 = 2, SS_CRF_ISA_AVX512 = 3 };
enum {
  SS_CRF_KEEP_LATTICE = 1,  /* keep lattices of pictures and features too, with a copy to compare with */
  SS_CRF_FILTER = 4         /* no mean field: probabilities = sum over terms of compat * filter(logits) */
};

typedef struct ss_crf_workspace ss_crf_workspace;

/* One pairwise term: a Gaussian kernel over a feature vector per pixel, a compatibility and a normalisation. */
typedef struct {
  const float* features;       /* (dims, height * width), already divided by their sigmas; or NULL: from the grid */
  int32_t dims;                /* of `features` */
  float sigma_x, sigma_y;      /* pixels; with features == NULL */
  const float* sigma_channels; /* (channels,) levels, or NULL: the picture is not looked at */
  const float* compat;         /* 1, (classes,) or (classes, classes) */
  int32_t compat_kind;         /* Potts and per-class weights reward equal labels; a matrix is the penalty mu(l, l') */
  int32_t normalisation;
} ss_crf_term;

typedef struct {
  int32_t classes, height, width, channels;
  int32_t logits_height, logits_width;
  const float* logits;         /* (classes, logits_height, logits_width): log-probabilities up to a constant per pixel */
  const float* start;          /* (classes, height, width) probabilities to begin from, or NULL: softmax(logits) */
  const void* image;           /* (height, width, channels), interleaved */
  int32_t image_type;
  int32_t term_count;
  const ss_crf_term* terms;
  int32_t iterations;
  int32_t lattice_stride;      /* mean field runs on every stride-th pixel of both axes */
  int32_t out_stride;          /* outputs are (classes, ceil(height / out_stride), ceil(width / out_stride)) */
  int32_t threads;
  int32_t instruction_set;
  int32_t flags;
  float* probabilities;        /* each of the three may be NULL */
  float* log_probabilities;    /* never below -60 */
  uint8_t* labels;             /* (ceil(height / out_stride), ceil(width / out_stride)) */
} ss_crf_job;

typedef struct {
  int32_t points[8], simplices[8]; /* of the first eight terms' lattices */
  int32_t instruction_set;
} ss_crf_stats;

SS_CRF_API int32_t ss_crf_abi(void);
/* The best instruction set of this machine (SS_CRF_ISA_*). */
SS_CRF_API int32_t ss_crf_instruction_set(void);
SS_CRF_API ss_crf_workspace* ss_crf_workspace_new(void);
SS_CRF_API void ss_crf_workspace_free(ss_crf_workspace*);
SS_CRF_API int32_t ss_crf_run(ss_crf_workspace*, const ss_crf_job*, ss_crf_stats*, char* message, size_t message_size);

#ifdef __cplusplus
}
#endif
#endif
