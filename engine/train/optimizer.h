// The optimiser: AdamW for vectors, embeddings and routers; AdamW or Muon for matrices; clipping by global
// norm.
#pragma once

#include <vector>

#include "engine/train/optimizer_settings.h"
#include "engine/train/param.h"

namespace omni::train {

// One update of the live groups of every parameter; step counts from 0. Returns the gradient's norm before
// clipping, that of routers left out.
double OptimizerStep(const std::vector<Param*>& params, int64_t step, const OptimizerSettings& settings);

// x [m, n] -> nearly U V^T of its singular value decomposition (singular values within 0.7 .. 1.2 for all but
// tiny ones).
torch::Tensor Orthogonalized(const torch::Tensor& x);

}  // namespace omni::train
