// A region's work without the actor: experts in, outputs out, nothing kept between jobs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "actors/region_job.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/expert_source.h"

namespace omni {

// What a test may make a region do instead of serving a job.
enum class RegionFault {
  kNone,
  kCrash,  // the actor dies with the job in hand
  kLose,   // the job is swallowed; no answer ever comes
};
using RegionFaultHook = std::function<RegionFault(const RegionJob&)>;

// A job whose experts come from disk, one by one and in any order. It has its own copy of the rows, so that
// the coordinator may give the job up while a read hangs.
struct RegionWork {
  std::vector<ExpertJob> jobs;  // rows 0 .. n-1 of `q` and `scale`
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::shared_ptr<RegionReply> reply;
  std::vector<std::unique_ptr<ExpertRun>>
      begun;  // by job: from the tiles that were there when others were not
  std::vector<bool> served;
  size_t left = 0;  // experts that have not been computed
};
using RegionWorkPtr = std::shared_ptr<RegionWork>;

class RegionState {
 public:
  // All references outlive the region. `fault` is null outside tests.
  RegionState(const ModelConfig& config, ExpertSource& source, WorkerPool& pool, const RegionFaultHook& fault)
      : config_(config), source_(source), pool_(pool), fault_(fault) {}

  ExpertSource& source() const { return source_; }

  // Runs every expert of the job; null if the job was abandoned or a test lost it. Throws what a crash would.
  // For a source whose experts are resident: others make it wait.
  RegionReplyPtr Run(const RegionJob& job);

  // The same in steps: Begin (null as above), then Serve for each of the work's jobs when its expert is
  // there. Serve returns the reply with the last of them, else null.
  RegionWorkPtr Begin(const RegionJob& job);
  RegionReplyPtr Serve(RegionWork& work, size_t job, const absl::StatusOr<ExpertTiles>& expert);
  // Computes what it can with the tiles that are there; null for the others.
  void ServePartial(RegionWork& work, size_t job, const ExpertTiles& partial);

 private:
  bool Lost(const RegionJob& job);  // by a test's wish

  const ModelConfig& config_;
  ExpertSource& source_;
  WorkerPool& pool_;
  const RegionFaultHook& fault_;
};

}  // namespace omni
