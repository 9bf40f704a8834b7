#include "cluster/disk_pool.h"

#include <exception>
#include <new>
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

void DiskPool::Run(std::function<void()> job, std::function<void(const absl::Status&)> failed) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back({std::move(job), std::move(failed)});
  }
  changed_.notify_one();
}

void DiskPool::Job::Do() const {
  absl::Status thrown;
  try {
    return work();
  } catch (const std::bad_alloc&) {
    thrown = absl::ResourceExhaustedError("there is no memory for this call; ask again later");
  } catch (const std::exception& error) {
    thrown = absl::InternalError(error.what());
  }
  failed(thrown);
}

void DiskPool::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return ending_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    {
      const Job job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job.Do();
    }
    lock.lock();
  }
}

}  // namespace omni
