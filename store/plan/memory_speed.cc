#include "store/plan/memory_speed.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>

#if defined(__x86_64__)
#include <immintrin.h>
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

int64_t BufferBytes() {
  const int64_t cache = sysconf(_SC_LEVEL3_CACHE_SIZE);  // 0 or -1: unknown
  const int64_t free = int64_t{sysconf(_SC_AVPHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  return std::max(kLeastBuffer, std::min(2 * std::max<int64_t>(0, cache), free / 4) >> 12 << 12);
}

struct Unmap {
  size_t bytes;
  void operator()(uint8_t* p) const { munmap(p, bytes); }
};

}  // namespace

double TimeThreads(int threads, const std::function<void(int)>& work) {
  std::atomic<int> ready{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) {
    pool.emplace_back([&, t] {
      ++ready;
      while (!go.load()) Pause();
      work(t);
    });
  }
  while (ready.load() < threads) std::this_thread::yield();
  const auto start = Clock::now();
  go.store(true);
  for (std::thread& thread : pool) thread.join();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double ReadBandwidth(const uint8_t* data, int64_t bytes, int threads) {
  const int64_t words = bytes / 8 / threads;
  double best = 0;
  for (int pass = 0; pass < 2; ++pass) {
    const double seconds = TimeThreads(threads, [&](int t) {
      sink += SumWords(reinterpret_cast<const uint64_t*>(data) + t * words, words);
    });
    best = std::max(best, static_cast<double>(bytes) / seconds);
  }
  return best;
}

absl::StatusOr<MemorySpeed> MeasureMemorySpeed(int threads) {
  MemorySpeed speed;
  speed.threads = std::clamp(threads, 1, 1024);
  speed.buffer_bytes = BufferBytes();
  const auto bytes = static_cast<size_t>(speed.buffer_bytes);
  void* map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("measuring the memory takes ", speed.buffer_bytes >> 20, " MiB, which are not free"));
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
    speed.bytes_per_s = std::max(speed.bytes_per_s, ReadBandwidth(buffer.get(), filled, speed.threads));
  } while (Clock::now() - start < kLimit);
  return speed;
}

}  // namespace omni
