// The optimiser: AdamW for vectors, embeddings and routers; AdamW or Muon for matrices. Linear warm-up,
// cosine decay (or constant rate with a linear cool-down) and clipping by global norm.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/train/param.h"

namespace omni::train {

enum class MatrixRule {
  kAdamW,
  // Nesterov momentum, orthogonalised by five Newton-Schulz steps (K. Jordan et al., "Muon", 2024), scaled by
  // 0.2 sqrt(max(rows, cols)) so that AdamW's learning rate and weight decay fit (J. Liu et al.,
  // arXiv:2502.16982).
  kMuon,
};

struct OptimizerSettings {
  float lr = 0, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0.1f, clip = 1.0f;
  MatrixRule matrices = MatrixRule::kAdamW;
  float momentum = 0.95f;  // Muon's
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

// One update of the first `groups(p)` groups of every parameter; step counts from 0. Returns the gradient's
// norm before clipping.
double OptimizerStep(const std::vector<Param*>& params, int64_t step, const OptimizerSettings& settings,
                     bool shared_start);

// x [m, n] -> nearly U V^T of its singular value decomposition (singular values within 0.7 .. 1.2 for all but
// tiny ones).
torch::Tensor Orthogonalized(const torch::Tensor& x);

}  // namespace omni::train
