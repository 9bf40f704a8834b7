// What the coordinator asks of a region for one layer, and the answer. Handed over by pointer, never copied.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include <absl/status/status.h>

#include "engine/base/ids.h"
#include "engine/decode/decoder.h"

namespace omni {

// The experts of one region that one layer of one step needs. The jobs point into the decoder's buffers,
// which change when the layer is over; Claim and Abandon decide once who may still read them.
class RegionJob {
 public:
  RegionJob(uint64_t id, RegionId region, int attempt, std::vector<ExpertJob> jobs)
      : id_(id), region_(region), attempt_(attempt), jobs_(std::move(jobs)) {}

  uint64_t id() const { return id_; }  // distinct per attempt
  RegionId region() const { return region_; }
  int attempt() const { return attempt_; }  // 1 the first time
  const std::vector<ExpertJob>& jobs() const { return jobs_; }

  // The region, before it reads any row: false means the answer is no longer wanted.
  bool Claim() const { return Take(kClaimed); }
  // The region, when it reads no row any more: it has taken copies.
  void Unclaim() const { phase_.store(kWaiting, std::memory_order_release); }
  // The coordinator, to give the job to somebody else: false means a region is computing it right now.
  bool Abandon() const { return Take(kAbandoned); }

 private:
  enum Phase : int { kWaiting, kClaimed, kAbandoned };
  bool Take(Phase phase) const {
    int expected = kWaiting;
    return phase_.compare_exchange_strong(expected, phase, std::memory_order_acq_rel);
  }

  uint64_t id_;
  RegionId region_;
  int attempt_;
  std::vector<ExpertJob> jobs_;
  mutable std::atomic<int> phase_{kWaiting};
};
using RegionJobPtr = std::shared_ptr<const RegionJob>;

struct RegionReply {
  uint64_t job_id = 0;
  RegionId region;
  std::vector<absl::Status> statuses;  // one per job; an error concerns only that job's rows
  std::vector<int64_t> offsets;        // start of each job's [rows, d] block in `output`, in floats
  std::vector<float> output;
  std::chrono::nanoseconds compute{0};
};
using RegionReplyPtr = std::shared_ptr<const RegionReply>;

}  // namespace omni
