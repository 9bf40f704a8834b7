// Helper threads for splitting rows of a product: short spin, then sleep. The caller is worker 0.
#pragma once

#include <cstdint>
#include <memory>

#include <absl/functional/function_ref.h>
#include <absl/status/status.h>

namespace omni {

class WorkerPool {
 public:
  // `threads` >= 1 in all, the caller included; smaller values count as 1. If the system refuses some, the
  // pool works with those that it got, and status() says so.
  explicit WorkerPool(int threads);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  int threads() const;
  const absl::Status& status() const;  // ok, or ResourceExhausted as ThreadsRefused words it
  // Splits [0, n) into contiguous ranges, at least `grain` long, and runs fn(begin, end) on each; returns
  // when all are done, and what they wrote is then visible to the caller. n <= 0 runs nothing. fn must not
  // throw. One caller at a time may own the pool; a second concurrent caller, or fn itself, runs its whole
  // range itself. Idle helpers spin for some microseconds and then sleep, and the caller takes ranges too, so
  // that a helper whose core is busy elsewhere costs at most the range it holds.
  void Run(int64_t n, int64_t grain, absl::FunctionRef<void(int64_t, int64_t)> fn);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
