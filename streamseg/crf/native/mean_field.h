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

struct FinishTermScratch {
  Buffer<float> weights;
  Buffer<uint32_t> vertices;
  Buffer<Known> known;
};

struct FinishScratch {            // of one part
  std::vector<FinishTermScratch> terms;
  Buffer<uint64_t> key, ranks;
  Buffer<float> features, rows;
  std::vector<FinishTerm> list;
};

// What is kept between calls; belongs to one call at a time.
struct Workspace {
  std::vector<std::unique_ptr<Term>> terms;
  Unary unary;
  Buffer<float> packed;           // per visit: log p up to a constant
  Buffer<float> bands;            // per part: rows of a band's pixels, and one more
  Buffer<float> rows;             // of all pixels, where outputs are means over several
  Buffer<float> rings;
  std::vector<std::unique_ptr<FinishScratch>> finish;
};

void run(Workspace&, const ss_crf_job&, const Kernels&, ss_crf_stats*);

// The last iteration on a finer grid than the lattice's, and out; see finish.cpp.
void finish(Workspace&, const ss_crf_job&, const Kernels&, Team&, const Grid& finest, int row);

}  // namespace ss
