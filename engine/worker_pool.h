// Helper threads for splitting rows of a product: short spin, then sleep. The caller is worker 0.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace omni {

class WorkerPool {
 public:
  // `threads` >= 1 in all, the caller included.
  explicit WorkerPool(int threads);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  int threads() const;
  // Splits [0, n) into contiguous ranges, at least `grain` long, and runs fn(begin, end) on each; returns when all are
  // done. One caller at a time may own the pool; a second concurrent caller runs its whole range itself.
  void Run(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& fn);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
