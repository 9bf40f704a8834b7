// How fast this machine reads its memory: what bounds a token whose weights are all there.
#pragma once

#include <cstdint>
#include <functional>

#include <absl/status/statusor.h>

namespace omni {

// Seconds from the moment that `threads` threads stand ready until the last has returned from work(its
// number). ResourceExhausted, and no work is done, if not all can be started.
absl::StatusOr<double> TimeThreads(int threads, const std::function<void(int)>& work);

// Bytes a second that `threads` threads read from `bytes` bytes at `data` (8-byte aligned, far more than the
// caches hold), best of two passes; 0 if not all can be started.
double ReadBandwidth(const uint8_t* data, int64_t bytes, int threads);

struct MemorySpeed {
  double bytes_per_s = 0;  // of all threads together
  int threads = 0;
  int64_t buffer_bytes = 0;  // what was read, over and over
};

// Reads a buffer of at least 256 MiB, twice the last cache if a quarter of the free memory and the time to
// fill it allow that. Takes about 1.5 s in all. ResourceExhausted if that is more than half of `free_bytes`,
// what a new program may take (Machine::FreeMemory): a smaller buffer would measure caches. Other work on the
// machine makes the figure smaller.
absl::StatusOr<MemorySpeed> MeasureMemorySpeed(int threads, int64_t free_bytes);

}  // namespace omni
