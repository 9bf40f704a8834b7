// Windowed attention by torch operations and its automatic gradient.
#pragma once

#include <torch/types.h>

#include "engine/model/config.h"
#include "engine/train/carry.h"

namespace omni::train {

// z = [q | k | v], [B * T, d + 2 * kv_heads * h] -> [B * T, d]. Positions remembered in attention layer
// `index` of `carry` are seen too, and the memory moves on; carry.position and carry.valid do not.
torch::Tensor Attention(const torch::Tensor& z, const ModelConfig& config, int64_t batch, Carry& carry,
                        size_t index);

}  // namespace omni::train
