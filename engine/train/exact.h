// The layers in the arithmetic of the law (one reduction shape, the project's exp, the recurrence stepped
// token by token), to compare the trainer with the engine. Training itself uses layers.h, whose chunked
// recurrence and faster sums agree with this to float rounding only; int8 rounding then turns such a
// difference, now and then, into a whole step of 1/127. No gradients. Activations as in layers.h.
#pragma once

#include <torch/types.h>

#include "engine/model/config.h"
#include "engine/train/carry.h"
#include "engine/train/layers.h"

namespace omni::train::exact {

torch::Tensor RmsNorm(const torch::Tensor& x, const Param& g);
torch::Tensor Pdr(const torch::Tensor& z, const Param& bias, const ModelConfig& config, int64_t batch,
                  torch::Tensor& state);
// z = [q | k | v]; all positions since `carry` was made must have come through here (its memory is W - 1
// long).
torch::Tensor Attention(const torch::Tensor& z, const ModelConfig& config, int64_t batch, Carry& carry,
                        size_t index);
torch::Tensor Swiglu(const torch::Tensor& z);
// The expert nearest to each row's point; bias may be undefined.
std::vector<int32_t> Nearest(const torch::Tensor& rows, const Param& route, const torch::Tensor& positions,
                             const torch::Tensor& bias);
torch::Tensor Experts(const torch::Tensor& h, const ExpertParams& params, const std::vector<int32_t>& route);

}  // namespace omni::train::exact
