// What a router sees that looks at the tokens before the present one.
#pragma once

#include <torch/types.h>

namespace omni::train {

// u_t = u_{t-1} + rate (h_t - u_{t-1}) in the law's order of operations, along each of `batch` sequences of
// h [B * T, d]. Returns u_{t-1} for every row; u [B, d] is read and replaced. No gradient flows through it.
torch::Tensor SlowRows(const torch::Tensor& h, float rate, int64_t batch, torch::Tensor& u);

}  // namespace omni::train
