#include "cluster/disk_pool.h"

#include <system_error>
#include <utility>

#include "engine/base/threads.h"

namespace omni {

absl::StatusOr<std::unique_ptr<DiskPool>> DiskPool::Start(int threads) {
  std::unique_ptr<DiskPool> pool(new DiskPool);
  try {
    for (int i = 0; i < threads; ++i) pool->threads_.emplace_back([raw = pool.get()] { raw->Work(); });
  } catch (const std::system_error& error) {
    return ThreadsRefused(threads, "read tiles for other nodes", error.code().value());
  }
  return pool;
}

DiskPool::~DiskPool() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void DiskPool::Run(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  changed_.notify_one();
}

void DiskPool::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return ending_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    lock.lock();
  }
}

}  // namespace omni
