// The learning rate: linear warm-up, then cosine decay, or a constant rate with a linear cool-down.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace omni::train {

struct Schedule {
  int64_t steps = 0, warmup = 0;
  double peak = 0, end_share = 0;
  double cooldown =
      0;  // 0: cosine from peak to end_share * peak; else constant, then linear over the last share of steps
};

inline double LearningRate(int64_t step, const Schedule& s) {
  if (step < s.warmup) return s.peak * static_cast<double>(step + 1) / static_cast<double>(s.warmup);
  const auto at = static_cast<double>(step), end = static_cast<double>(s.steps),
             first = static_cast<double>(s.warmup);
  if (s.cooldown > 0) {
    const double left = (end - at) / std::max(1.0, s.cooldown * end);
    return s.peak * std::min(1.0, s.end_share + (1 - s.end_share) * std::max(0.0, left));
  }
  const double t = std::min(1.0, (at - first) / std::max(1.0, end - first));
  return s.peak * (s.end_share + (1 - s.end_share) * 0.5 * (1 + std::cos(M_PI * t)));
}

}  // namespace omni::train
