// The FFN of one expert of one layer, from its tiles.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <absl/status/status.h>

#include "engine/base/ids.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/expert_source.h"
#include "engine/model/weights.h"

namespace omni {

// The rows of a batch that one expert of one layer must compute. The pointers belong to whoever made the job
// and stay valid and unchanged until its output has been added.
struct ExpertJob {
  LayerId layer;
  ExpertId expert;
  std::vector<int32_t> rows;  // batch rows, ascending
  const int8_t* q = nullptr;  // row i of the batch at q + i * q_stride: int8, d_pad long
  int64_t q_stride = 0;
  const float* scale = nullptr;  // scale[i] of batch row i
};

// The expert FFN of one job: out[j * d .. ] receives row job.rows[j]'s output. Stateless: the same bytes on
// any thread, node or batch. Rows may be computed from a copied q (remote) by setting rows = 0..n-1.
// Thread-safe. Tiles are checked as `expert` says; an error is that of the first one found damaged. Rejects a
// number of tiles that is not the config's and an empty job.
absl::Status RunExpert(const ModelConfig& config, const ExpertTiles& expert, const ExpertJob& job,
                       WorkerPool& pool, float* out, const kernels::Ops& ops = kernels::ActiveOps());

// Several jobs, the same bytes: rows of different experts meet the tiles that these share together, if the
// experts are neighbours in `jobs`. Job i is of experts[i]; its rows of q, of scale and of out follow those
// of job i - 1 in memory, and it numbers them from 0. No tile may still have to be checked.
absl::Status RunExperts(const ModelConfig& config, std::span<const ExpertTiles> experts,
                        std::span<const ExpertJob> jobs, WorkerPool& pool, float* out,
                        const kernels::Ops& ops = kernels::ActiveOps());

// How many of their tiles all of these have in common.
int64_t SharedTiles(std::span<const ExpertTiles> experts);

// RunExpert in two parts, for an expert some of whose tiles are still on their way: what can be computed from
// the others is computed meanwhile. The same bytes. One thread at a time.
class ExpertRun {
 public:
  // The job's rows stay unchanged, and everything stays in place, until Finish has returned.
  ExpertRun(const ModelConfig& config, const ExpertJob& job, WorkerPool& pool,
            const kernels::Ops& ops = kernels::ActiveOps());
  ~ExpertRun();
  // Tiles by number, TilesPerExpert(config) of them, null where there is none yet. Those of earlier calls are
  // passed over.
  absl::Status Add(const ExpertTiles& partial);
  // The rest. Errors and `out` as RunExpert's.
  absl::Status Finish(const ExpertTiles& expert, float* out);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
