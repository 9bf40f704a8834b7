// The loss as a function of the head's parameters of an adapter (gain, map, bias), and its exact gradient: at
// each token it is a closed form of the last hidden state, so that nothing of the layers is kept.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/around/adapter.h"
#include "engine/decode/scratch.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/weights.h"
#include "kernels/op.h"

namespace omni {

// Rounding of the changed hidden state to int8 counts as the identity. Results do not depend on threads.
class HeadLoss {
 public:
  HeadLoss(const ModelWeights& weights, WorkerPool& pool, const kernels::Ops& ops = kernels::ActiveOps())
      : weights_(weights), pool_(pool), ops_(ops) {}

  // y: [rows, d], hidden states without the adapter's head. Nats of the targets, in all.
  double Loss(const Adapter& at, std::span<const float> y, std::span<const TokenId> targets);
  // The sum over rows of KL(without head, from y_plain || with it, from y).
  double Divergence(const Adapter& at, std::span<const float> y, std::span<const float> y_plain);

  // After either: gradient += weight x its derivative, in the head's blocks that `gradient` has.
  void AddGradient(const Adapter& at, std::span<const float> y, float weight, Adapter& gradient);
  // The derivative by y of a row, [d], after HiddenGradients.
  void HiddenGradients(const Adapter& at);
  std::span<const float> hidden_gradient(int64_t row) const;
  int64_t bytes() const { return bytes_; }  // of its buffers

 private:
  void Logits(const HeadChange* head, std::span<const float> y, float* logits);
  void Backward();

  const ModelWeights& weights_;
  WorkerPool& pool_;
  const kernels::Ops& ops_;
  int64_t rows_ = 0, bytes_ = 0;
  Scratch<float> changed_, scale_, logits_, plain_, dz_, dy_, inner_;
  Scratch<int8_t> q_;
  Scratch<int32_t> acc_;
  std::vector<double> nats_;
};

}  // namespace omni
