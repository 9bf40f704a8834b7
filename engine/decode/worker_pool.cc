#include "engine/decode/worker_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <system_error>
#include <thread>
#include <vector>

#include <immintrin.h>

#include "engine/base/threads.h"

namespace omni {
namespace {

// How long a thread watches for work before it sleeps: longer than what one thread does alone between two
// products, since waking takes tens of microseconds on a virtual machine; much shorter than a scheduler's
// time slice. It never yields: on a shared machine that gives a whole slice away.
constexpr auto kSpin = std::chrono::microseconds(50);
constexpr int kSpinsPerLook = 16;  // at the clock
// Ranges per thread, so that threads of unequal speed finish together.
constexpr int64_t kRangesPerThread = 8;

// Waits, spinning first, while `value` equals `old`.
void WaitWhile(const std::atomic<int32_t>& value, int32_t old) {
  const auto start = std::chrono::steady_clock::now();
  for (auto waited = std::chrono::steady_clock::duration::zero(); waited < kSpin;
       waited = std::chrono::steady_clock::now() - start) {
    for (int i = 0; i < kSpinsPerLook; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      _mm_pause();
    }
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

// One word, `unclaimed`, carries the protocol: a range is claimed by lowering it, and the job's plain fields
// are read only after a successful claim. The owner cannot leave Run, and so cannot change them, before
// `unfinished` says that every claimed range is done; a helper that looks late sees either nothing to claim
// or the next job, both valid.
struct WorkerPool::Impl {
  static constexpr int32_t kStop = -1;

  struct Job {
    const absl::FunctionRef<void(int64_t, int64_t)>* fn = nullptr;
    int64_t n = 0, ranges = 0;
  };

  alignas(64) std::atomic<int32_t> unclaimed{0};
  alignas(64) std::atomic<int32_t> unfinished{0};
  alignas(64) std::atomic<bool> owned{false};
  Job job;
  std::vector<std::thread> helpers;
  absl::Status status;

  bool RunOneRange() {
    int32_t left = unclaimed.load(std::memory_order_acquire);
    do {
      if (left <= 0) return false;
    } while (!unclaimed.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel));
    const int64_t range = left - 1;
    (*job.fn)(job.n * range / job.ranges, job.n * (range + 1) / job.ranges);
    if (unfinished.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished.notify_one();
    return true;
  }

  void Help() {
    while (unclaimed.load(std::memory_order_acquire) != kStop) {
      if (!RunOneRange()) WaitWhile(unclaimed, 0);
    }
  }
};

WorkerPool::WorkerPool(int threads) : impl_(std::make_unique<Impl>()) {
  try {
    for (int i = 1; i < threads; ++i) {
      impl_->helpers.emplace_back([impl = impl_.get()] { impl->Help(); });
    }
  } catch (const std::system_error& error) {
    impl_->status = ThreadsRefused(threads - 1, "help computing", error.code().value());
  }
}

WorkerPool::~WorkerPool() {
  impl_->unclaimed.store(Impl::kStop, std::memory_order_release);
  impl_->unclaimed.notify_all();
  for (std::thread& helper : impl_->helpers) helper.join();
}

const absl::Status& WorkerPool::status() const { return impl_->status; }

int WorkerPool::threads() const { return static_cast<int>(impl_->helpers.size()) + 1; }

void WorkerPool::Run(int64_t n, int64_t grain, absl::FunctionRef<void(int64_t, int64_t)> fn) {
  if (n <= 0) return;
  Impl& pool = *impl_;
  const int64_t ranges = std::min(n / std::max<int64_t>(grain, 1), threads() * kRangesPerThread);
  if (ranges <= 1 || threads() == 1 || pool.owned.exchange(true, std::memory_order_acquire)) {
    fn(0, n);
    return;
  }
  pool.job = {&fn, n, ranges};
  pool.unfinished.store(static_cast<int32_t>(ranges), std::memory_order_relaxed);
  pool.unclaimed.store(static_cast<int32_t>(ranges), std::memory_order_release);
  pool.unclaimed.notify_all();
  while (pool.RunOneRange()) {
  }
  for (int32_t left; (left = pool.unfinished.load(std::memory_order_acquire)) != 0;) {
    WaitWhile(pool.unfinished, left);
  }
  pool.owned.store(false, std::memory_order_release);
}

}  // namespace omni
