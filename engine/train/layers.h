// The layers as autograd functions over the CPU loops. Activations are float32 [N, width], N = batch *
// tokens, sequence after sequence. Parameter gradients are added to Param::grad during backward.
#pragma once

#include <torch/types.h>

#include <memory>

#include "engine/train/optimizer_settings.h"
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
  float temperature = kRouterTemperature, balance = 0.01f, smoothness = 0.0f;
  int64_t tokens = 0;  // per sequence, for the smoothness of consecutive tokens
  // What is subtracted from each expert's squared distance, [E], as it is until the gradient is taken; may be
  // undefined. No part of a probability.
  torch::Tensor bias = {};
  // Of each expert, [E], if a region is chosen rather than an expert; must outlive the gradient.
  const std::vector<int32_t>* region_of = nullptr;
  bool untaken = false;  // asks for RouterResult::untaken
};
struct RouterResult {
  torch::Tensor prob;  // [N], softmax weight of the chosen expert or region; carries the gradient
  // [N, experts or regions], p - detach(p) of each, which is 0; carries the gradient.
  torch::Tensor untaken;
  std::shared_ptr<std::vector<int32_t>> route;  // [N], the nearest expert
  double balance = 0, smoothness = 0;  // loss values, already weighted; their gradient is added in backward
};
RouterResult Route(const torch::Tensor& h, Param& w, const torch::Tensor& positions,
                   const RouterSettings& settings);

// One of the groups that the experts' neurons are in (engine/model/neuron_groups.h). Parameters: gate and up
// rows stacked [copies, 2 * neurons, d]; down neuron-major [copies, neurons, d].
struct ExpertGroup {
  Param *gate_up, *down;
  std::vector<int32_t> copy_of;  // per expert

  int64_t neurons() const { return down->rows(); }
  // Until a group parts all experts have its copy 0.
  int32_t CopyOf(int32_t expert) const { return down->parted ? copy_of[static_cast<size_t>(expert)] : 0; }
};
struct ExpertParams {
  std::vector<ExpertGroup> groups;  // in the order of an expert's neurons
  std::vector<int32_t> region_of;   // per expert
  bool gated = true;                // what the router chooses makes a difference: prob gets a gradient

  int64_t neurons() const;
};
// y * (1 + prob - detach(prob)) per token.
torch::Tensor Experts(const torch::Tensor& h, const torch::Tensor& prob, const ExpertParams& params,
                      std::shared_ptr<std::vector<int32_t>> route);

// y + sum_j untaken_j mean_outputs_j over all j but the one taken, which is y; the gradient to untaken says
// what another choice would have changed, if its output were its usual one. mean_outputs [choices, d];
// taken[N].
torch::Tensor WithUntaken(const torch::Tensor& y, const torch::Tensor& untaken,
                          const torch::Tensor& mean_outputs, const std::vector<int32_t>& taken);
// Moves the mean output of each choice that was taken towards the mean of its rows of y.
void UpdateMeanOutputs(const torch::Tensor& y, const std::vector<int32_t>& taken,
                       torch::Tensor& mean_outputs);

// What a teacher takes for likely: of each row some tokens (int32 [N, K], of the vocabulary) and their
// probabilities (float32 [N, K]), the rest being the target's. Nothing where ids are undefined.
struct SoftTargets {
  torch::Tensor ids, weights;
  float share = 0;
};

// Mean cross entropy (nats) of the quantised head; targets int32 [N], negative ones skipped. With `soft` that
// share of each row is the cross entropy with the teacher's distribution instead.
torch::Tensor HeadLoss(const torch::Tensor& y, Param& embedding, const torch::Tensor& targets,
                       const SoftTargets& soft = {});

}  // namespace omni::train
