// Mean field (Krähenbühl & Koltun 2011, algorithm 1): filter, compatibility, soft-max, again.
#pragma once

#include <memory>
#include <vector>

#include "term.h"

namespace ss {

struct Known {                    // a simplex that was looked up a moment ago
  uint64_t key, ranks;
  uint32_t vertices[kCodedDims + 1];
};

struct FinishScratch {            // of one part
  Buffer<float> weights[kMaxTerms];
  Buffer<uint32_t> vertices[kMaxTerms];
  Buffer<uint64_t> key, ranks;
  Buffer<float> planes, features, rows;
  Buffer<Known> known[kMaxTerms];
};

// What is kept between calls; belongs to one call at a time.
struct Workspace {
  std::vector<std::unique_ptr<Term>> terms;
  Unary unary;
  Buffer<float> planes, rows, start, added, scratch, rings;
  Buffer<uint8_t> rest;
  Buffer<uint32_t> lists;
  std::vector<std::unique_ptr<FinishScratch>> finish;
};

void run(Workspace&, const ss_crf_job&, const Kernels&, ss_crf_stats*);

// The last iteration on a finer grid than the lattice's, and out; see finish.cpp.
void finish(Workspace&, const ss_crf_job&, const Kernels&, Team&, const Grid& finest, int row);

}  // namespace ss
