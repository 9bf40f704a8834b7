// AdamW with linear warm-up, cosine decay (or constant rate with a linear cool-down) and clipping by global norm.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/train/param.h"

namespace omni::train {

struct AdamWSettings {
  float lr = 0, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0.1f, clip = 1.0f;
};

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

// One update of the first `groups(p)` groups of every parameter; step counts from 0. Returns the gradient's norm before
// clipping.
double AdamWStep(const std::vector<Param*>& params, int64_t step, const AdamWSettings& settings,
                 bool shared_start);

}  // namespace omni::train
