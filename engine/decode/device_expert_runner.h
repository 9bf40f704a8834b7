// Experts of a region on a device: what RunExpert gives, by the bit. The tiles of those that were used last
// stay in the device's memory, as many as fit.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/decode/expert.h"

namespace omni {

class DevicePool;

struct ExpertRunnerReport {
  std::string name;                         // of the device, as its runtime has it
  int64_t memory_used = 0, memory_cap = 0;  // bytes of it, with whatever shares the pool
  int64_t jobs = 0, fallbacks = 0;          // computed by the device; by the CPU in its place
  int64_t held = 0;                         // experts in the device's memory
  int64_t bytes_streamed = 0;               // of experts to the device
  bool lost = false;
};

// What a region computes with in the place of this process's cores. One thread at a time.
class ExpertRunner {
 public:
  virtual ~ExpertRunner() = default;
  // As RunExpert: `out` receives the job's rows.
  virtual absl::Status Run(const ExpertTiles& expert, const ExpertJob& job, float* out) = 0;
};

class DeviceExpertRunner final : public ExpertRunner {
 public:
  // config and cpu outlive it. `keep_free`: bytes that it leaves of the pool for others. ResourceExhausted:
  // there is no room for the rows and one expert; the message says what would do. Unavailable: the device
  // fails.
  static absl::StatusOr<std::unique_ptr<DeviceExpertRunner>> Create(const ModelConfig& config,
                                                                    WorkerPool& cpu,
                                                                    std::shared_ptr<DevicePool> pool,
                                                                    int64_t keep_free);
  ~DeviceExpertRunner() override;

  // Where the device fails, the job and all that follow are computed by the CPU, and the log says so
  // (device_lost).
  absl::Status Run(const ExpertTiles& expert, const ExpertJob& job, float* out) override;
  ExpertRunnerReport Report() const;  // thread-safe

 private:
  struct Impl;
  explicit DeviceExpertRunner(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
