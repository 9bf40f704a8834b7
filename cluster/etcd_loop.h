// One thread with a completion queue, timers and work from other threads: what runs here needs no lock. Sees
// gRPC; for cluster/etcd_*.cc alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <absl/status/status.h>
#include <grpc/support/time.h>
#include <grpcpp/alarm.h>
#include <grpcpp/completion_queue.h>

namespace omni {

class EtcdLoop {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using TimerId = std::pair<Time, int64_t>;
  using Work = std::function<void()>;

  EtcdLoop() = default;
  ~EtcdLoop();  // after Stop, or if it was never started
  absl::Status Start();
  // Runs what was posted, then `last`, which cancels everything that is under way, and returns when all of
  // it has come back. Not on the loop's thread.
  void Stop(Work last);

  // From any thread: runs on the loop's. False: it is being stopped, and nothing will.
  bool Post(Work work);

  // The rest is for the loop's thread. `last` ends the time in which operations may begin.
  bool stopping() const { return over_; }
  grpc::CompletionQueue& queue() { return queue_; }
  // A tag for one operation on the queue: `done` runs when that is over.
  void* Tag(std::function<void(bool ok)> done);
  TimerId After(std::chrono::milliseconds delay, Work work);
  void CancelTimer(const TimerId& timer) { timers_.erase(timer); }

 private:
  void Run();
  void RunPosted();
  void Wake();  // with mutex_ held
  gpr_timespec NextTimer() const;

  grpc::CompletionQueue queue_;
  std::thread thread_;
  std::map<TimerId, Work> timers_;
  int64_t last_timer_ = 0;
  bool over_ = false;

  std::mutex mutex_;
  std::vector<Work> posted_;
  std::unique_ptr<grpc::Alarm>
      alarm_;  // its tag is the loop: no memory passes through gRPC from thread to thread
  bool woken_ = false, stopping_ = false;
  Work last_;
};

// `delay` from now, for gRPC's deadlines; does not jump with the wall clock.
gpr_timespec DeadlineAfter(std::chrono::milliseconds delay);

}  // namespace omni
