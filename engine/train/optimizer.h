// AdamW with linear warm-up, cosine decay and clipping by global norm.
#pragma once

#include <cmath>
#include <vector>

#include "engine/train/param.h"

namespace omni::train {

struct AdamWSettings {
  float lr = 0, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0.1f, clip = 1.0f;
};

inline double LearningRate(int64_t step, int64_t steps, int64_t warmup, double peak, double end_share) {
  if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double t = std::min(1.0, static_cast<double>(step - warmup) / std::max(1.0, static_cast<double>(steps - warmup)));
  return peak * (end_share + (1 - end_share) * 0.5 * (1 + std::cos(M_PI * t)));
}

// One update of the first `groups(p)` groups of every parameter; step counts from 0. Returns the gradient's norm before
// clipping.
double AdamWStep(const std::vector<Param*>& params, int64_t step, const AdamWSettings& settings, bool shared_start);

}  // namespace omni::train
