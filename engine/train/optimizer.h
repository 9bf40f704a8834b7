// The optimiser: AdamW for vectors, embeddings and routers; AdamW or Muon for matrices; clipping by global
// norm.
#pragma once

#include <vector>

#include "engine/train/matrix_rule.h"
#include "engine/train/param.h"

namespace omni::train {

struct OptimizerSettings {
  float lr = 0, router_lr = 1;  // a router's rate is lr * router_lr
  float router_clip = 0;        // limit of the routers' norm; 0: none
  float beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0.1f, clip = 1.0f;
  MatrixRule matrices = MatrixRule::kAdamW;
  float momentum = 0.95f;  // Muon's
};

// One update of the live groups of every parameter; step counts from 0. Returns the gradient's norm before
// clipping, that of routers left out.
double OptimizerStep(const std::vector<Param*>& params, int64_t step, const OptimizerSettings& settings);

// x [m, n] -> nearly U V^T of its singular value decomposition (singular values within 0.7 .. 1.2 for all but
// tiny ones).
torch::Tensor Orthogonalized(const torch::Tensor& x);

}  // namespace omni::train
