#include "store/plan/memory_speed.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>

#include "engine/base/threads.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
// A clone is chosen while the program is loaded, when the thread sanitizer is not there yet.
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define OMNI_WIDE_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define OMNI_WIDE_CLONES
#endif

namespace omni {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kLeastBuffer = int64_t{256} << 20;
constexpr int64_t kChunk = int64_t{32} << 20;
constexpr std::chrono::milliseconds kLimit{700};  // for filling the buffer, and again for reading it

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

std::atomic<uint64_t> sink;  // so that no sum can be left out

OMNI_WIDE_CLONES uint64_t SumWords(const uint64_t* data, int64_t words) {
  constexpr int kLanes = 64;
  uint64_t sum[kLanes] = {};
  for (int64_t i = 0; i + kLanes <= words; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) sum[j] += data[i + j];
  }
  uint64_t total = 0;
  for (uint64_t s : sum) total += s;
  return total;
}

int64_t BufferBytes(int64_t free_bytes) {
  const int64_t cache = sysconf(_SC_LEVEL3_CACHE_SIZE);  // 0 or -1: unknown
  return std::max(kLeastBuffer, std::min(2 * std::max<int64_t>(0, cache), free_bytes / 4) >> 12 << 12);
}

struct Unmap {
  size_t bytes;
  void operator()(uint8_t* p) const { munmap(p, bytes); }
};

}  // namespace

absl::StatusOr<double> TimeThreads(int threads, const std::function<void(int)>& work) {
  enum { kWait, kWork, kGiveUp };
  std::atomic<int> ready{0}, state{kWait};
  std::vector<std::thread> pool;
  absl::Status status;
  try {
    for (int t = 0; t < threads; ++t) {
      pool.emplace_back([&, t] {
        ++ready;
        while (state.load() == kWait) Pause();
        if (state.load() == kWork) work(t);
      });
    }
  } catch (const std::system_error& error) {
    status = ThreadsRefused(threads, "measure", error.code().value());
  }
  if (status.ok()) {
    while (ready.load() < threads) std::this_thread::yield();
  }
  const auto start = Clock::now();
  state.store(status.ok() ? kWork : kGiveUp);
  for (std::thread& thread : pool) thread.join();
  if (!status.ok()) return status;
  return std::chrono::duration<double>(Clock::now() - start).count();
}

namespace {

absl::StatusOr<double> Bandwidth(const uint8_t* data, int64_t bytes, int threads) {
  const int64_t words = bytes / 8 / threads;
  double best = 0;
  for (int pass = 0; pass < 2; ++pass) {
    const absl::StatusOr<double> seconds = TimeThreads(threads, [&](int t) {
      sink += SumWords(reinterpret_cast<const uint64_t*>(data) + t * words, words);
    });
    if (!seconds.ok()) return seconds.status();
    best = std::max(best, static_cast<double>(bytes) / *seconds);
  }
  return best;
}

}  // namespace

double ReadBandwidth(const uint8_t* data, int64_t bytes, int threads) {
  return Bandwidth(data, bytes, threads).value_or(0);
}

absl::StatusOr<MemorySpeed> MeasureMemorySpeed(int threads, int64_t free_bytes) {
  MemorySpeed speed;
  speed.threads = std::clamp(threads, 1, 1024);
  speed.buffer_bytes = BufferBytes(free_bytes);
  if (speed.buffer_bytes > free_bytes / 2) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot be measured: that takes ",
                                                     speed.buffer_bytes >> 20, " MiB of memory, and only ",
                                                     free_bytes >> 20, " are free"));
  }
  const auto bytes = static_cast<size_t>(speed.buffer_bytes);
  void* map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot be measured: that takes ",
                                                     speed.buffer_bytes >> 20,
                                                     " MiB of memory: ", std::strerror(errno)));
  }
  const std::unique_ptr<uint8_t, Unmap> buffer(static_cast<uint8_t*>(map), Unmap{bytes});
  madvise(map, bytes, MADV_HUGEPAGE);
  // Written once, or all pages would be one page of zeros. Where that is slow a smaller buffer must do.
  Clock::time_point start = Clock::now();
  int64_t filled = 0;
  while (filled < speed.buffer_bytes && (filled < kLeastBuffer || Clock::now() - start < kLimit)) {
    const int64_t chunk = std::min(kChunk, speed.buffer_bytes - filled);
    std::memset(buffer.get() + filled, 1, static_cast<size_t>(chunk));
    filled += chunk;
  }
  speed.buffer_bytes = filled;
  start = Clock::now();
  do {
    const absl::StatusOr<double> pass = Bandwidth(buffer.get(), filled, speed.threads);
    if (!pass.ok()) return pass.status();
    speed.bytes_per_s = std::max(speed.bytes_per_s, *pass);
  } while (Clock::now() - start < kLimit);
  return speed;
}

}  // namespace omni
