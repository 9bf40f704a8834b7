// How fast, and how soon again, another node is asked.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace omni {

// So many bytes a second and no more. One thread.
class RateLimit {
 public:
  using Clock = std::chrono::steady_clock;

  explicit RateLimit(int64_t bytes_per_second) : bytes_per_second_(bytes_per_second) {}  // 0: no limit

  // When `bytes` more may begin to move, for one who asks at `now`. Each call is granted its bytes.
  Clock::time_point Take(Clock::time_point now, int64_t bytes) {
    if (bytes_per_second_ <= 0) return now;
    const Clock::time_point begin = std::max(now, free_);
    const double seconds = static_cast<double>(bytes) / static_cast<double>(bytes_per_second_);
    free_ = begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    return begin;
  }

 private:
  const int64_t bytes_per_second_;
  Clock::time_point free_{};  // when what was granted has moved
};

// How long to wait after `failures` in a row, at least 1: twice as long after each, at most 5 s.
inline std::chrono::milliseconds Backoff(std::chrono::milliseconds first, int failures) {
  constexpr std::chrono::milliseconds kLongest{5000};
  return std::min(kLongest, first * (int64_t{1} << std::clamp(failures - 1, 0, 20)));
}

}  // namespace omni
