// The layers as autograd functions over the CPU loops. Activations are float32 [N, width], N = batch *
// tokens, sequence after sequence. Parameter gradients are added to Param::grad during backward.
#pragma once

#include <torch/types.h>

#include <memory>

#include "engine/train/param.h"

namespace omni::train {

torch::Tensor RmsNorm(const torch::Tensor& x, Param& g);

// Quantises x to int8 per row and multiplies by the coded matrix: [N, rows]. Straight-through to x and w.
torch::Tensor QuantLinear(const torch::Tensor& x, Param& w);

// z = [p | v | k | q] (d, d, r, r) -> S q for every token, [N, d]. state [B, r, d] is read and replaced (no
// gradient flows through it).
torch::Tensor Pdr(const torch::Tensor& z, Param& bias, int64_t batch, int64_t d, int64_t r, bool key_scale,
                  float floor, torch::Tensor& state);

torch::Tensor Swiglu(const torch::Tensor& z);  // [gate | up] -> up * silu(gate)

// x + dropout(o); the mask is a function of (key, index).
torch::Tensor DropoutAdd(const torch::Tensor& x, const torch::Tensor& o, uint64_t key, float rate);

struct RouterSettings {
  float temperature = 0.02f, balance = 0.01f, smoothness = 0.0f;
  int64_t tokens = 0;  // per sequence, for the smoothness of consecutive tokens
};
struct RouterResult {
  torch::Tensor prob;  // [N], softmax weight of the chosen expert; carries the gradient
  std::shared_ptr<std::vector<int32_t>> route;  // [N]
  double balance = 0, smoothness = 0;  // loss values, already weighted; their gradient is added in backward
};
RouterResult Route(const torch::Tensor& h, Param& w, const torch::Tensor& positions,
                   const RouterSettings& settings);

// Experts whose first neurons belong to their region and whose last ones are their own. Parameters: gate and
// up rows stacked [groups, 2 * neurons, d]; down neuron-major [groups, neurons, d].
struct ExpertParams {
  Param *tied_gate_up = nullptr, *tied_down = nullptr;  // groups = regions; null if nothing is tied
  Param *own_gate_up = nullptr, *own_down = nullptr;    // groups = experts; null if everything is tied
  std::vector<int32_t> region_of;                       // per expert
  bool shared_start = false;  // every token uses region 0 and expert 0: the dense start before experts part
};
// y * (1 + prob - detach(prob)) per token.
torch::Tensor Experts(const torch::Tensor& h, const torch::Tensor& prob, const ExpertParams& params,
                      std::shared_ptr<std::vector<int32_t>> route);

// Mean cross entropy (nats) of the quantised head; targets int32 [N], negative ones skipped.
torch::Tensor HeadLoss(const torch::Tensor& y, Param& embedding, const torch::Tensor& targets);

}  // namespace omni::train
