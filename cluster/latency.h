// How long answers take, of late: a histogram whose past fades.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>

namespace omni {

// Times from 1 us to about 70 s in steps of a fifth. One writer; not thread-safe.
class LatencyHistogram {
 public:
  void Add(std::chrono::nanoseconds time);
  // Below which the share lies, rounded up to a step; zero before the first time.
  std::chrono::nanoseconds Quantile(double share) const;
  int64_t count() const { return count_; }  // of all time

 private:
  static constexpr int kSteps = 100;
  // Then all counts are halved: what was measured that long ago counts half.
  static constexpr int64_t kMemory = 2048;

  std::array<int32_t, kSteps> steps_{};
  int64_t total_ = 0, count_ = 0;
};

}  // namespace omni
