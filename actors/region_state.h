// A region's work without the actor: experts in, outputs out, nothing kept between jobs.
#pragma once

#include <functional>

#include "actors/region_job.h"
#include "engine/weights.h"
#include "engine/worker_pool.h"

namespace omni {

// What a test may make a region do instead of serving a job.
enum class RegionFault {
  kNone,
  kCrash,  // the actor dies with the job in hand
  kLose,   // the job is swallowed; no answer ever comes
};
using RegionFaultHook = std::function<RegionFault(const RegionJob&)>;

class RegionState {
 public:
  // All references outlive the region. `fault` is null outside tests.
  RegionState(const ModelConfig& config, ExpertProvider& provider, WorkerPool& pool,
              const RegionFaultHook& fault)
      : config_(config), provider_(provider), pool_(pool), fault_(fault) {}

  // Runs every expert of the job; null if the job was abandoned or a test lost it. Throws what a crash would.
  RegionReplyPtr Run(const RegionJob& job);

 private:
  const ModelConfig& config_;
  ExpertProvider& provider_;
  WorkerPool& pool_;
  const RegionFaultHook& fault_;
};

}  // namespace omni
