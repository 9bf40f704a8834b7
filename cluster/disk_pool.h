// A few threads that wait for disks, so that those of the network need not.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni {

// Thread-safe. How many jobs wait is the caller's to bound.
class DiskPool {
 public:
  // ResourceExhausted: the system refuses the threads.
  static absl::StatusOr<std::unique_ptr<DiskPool>> Start(int threads);
  ~DiskPool();  // when all jobs are done

  // Where the job throws, `failed` is called then, on the same thread: ResourceExhausted, there was no memory
  // for it; else Internal, with what was thrown. The job may have been done by half.
  void Run(std::function<void()> job, std::function<void(const absl::Status&)> failed);

 private:
  DiskPool() = default;
  struct Job {
    void Do() const;
    std::function<void()> work;
    std::function<void(const absl::Status&)> failed;
  };
  void Work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace omni
