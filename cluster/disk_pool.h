// A few threads that wait for disks, so that those of the network need not.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <absl/status/statusor.h>

namespace omni {

// Thread-safe. How many jobs wait is the caller's to bound.
class DiskPool {
 public:
  // ResourceExhausted: the system refuses the threads.
  static absl::StatusOr<std::unique_ptr<DiskPool>> Start(int threads);
  ~DiskPool();  // when all jobs are done

  void Run(std::function<void()> job);

 private:
  DiskPool() = default;
  void Work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace omni
