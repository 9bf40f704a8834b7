// A training step on a CUDA device: forward, gradients and update of a whole model, with weights, moments and
// carried state in the device's memory. What it computes is what engine/train's layers and optimiser do on
// the CPU, but for the order of float sums; of the settings it knows those of DeviceTrainable.
//
// One caller at a time. Every call may throw std::runtime_error: the device failed, or has not the memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/model/config.h"
#include "engine/train/device/layout.h"
#include "engine/train/optimizer_settings.h"

namespace omni::train {

// The state of `batch` sequences, as engine/train/carry.h has it: by layer of its kind, row after row.
struct CarriedState {
  std::vector<std::vector<float>> pdr;           // [batch, r, d]
  std::vector<std::vector<float>> slow;          // [batch, d]
  std::vector<std::vector<float>> keys, values;  // [batch, kv_heads, memory, head_dim]
  std::vector<int32_t> valid;                    // [batch]
  int64_t position = 0;
};

// The expert of every token, by expert layer.
using ExpertsTaken = std::vector<std::vector<int32_t>>;

class DeviceStep {
 public:
  virtual ~DeviceStep() = default;

  // A parameter's weights, gradient and moments in Layout's order, size() floats each; null: not wanted.
  virtual void SetParam(size_t param, const float* w, const float* m, const float* v) = 0;
  virtual void GetParam(size_t param, float* w, float* m, float* v) = 0;
  virtual std::vector<float> Gradient(size_t param) = 0;
  // Of an expert layer: the member of every token (by address), and the bias of every expert.
  virtual void SetMembers(size_t expert_layer, std::vector<uint8_t> members) = 0;
  virtual void SetBias(size_t expert_layer, const std::vector<float>& bias) = 0;
  // Codes from weights; Update does it too.
  virtual void Quantize() = 0;

  // A carried state of `batch` sequences, at zero; names it for the calls below.
  virtual size_t NewState(int64_t batch) = 0;
  virtual void SetState(size_t state, const CarriedState& values) = 0;
  virtual CarriedState GetState(size_t state) = 0;
  virtual void ResetRow(size_t state, int64_t row) = 0;

  // One segment of every sequence: inputs and targets [batch * tokens]. Adds the sum of the losses, in nats,
  // to what TakeLoss returns. The gradients are of their mean.
  virtual ExpertsTaken ForwardBackward(const std::vector<int32_t>& inputs,
                                       const std::vector<int32_t>& targets, size_t state,
                                       float smoothness) = 0;
  virtual ExpertsTaken Forward(const std::vector<int32_t>& inputs, const std::vector<int32_t>& targets,
                               size_t state) = 0;
  // One update from the gradients of the last ForwardBackward; step counts from 0.
  virtual void Update(int64_t step, const OptimizerSettings& settings) = 0;

  virtual double TakeLoss() = 0;          // since the last call
  virtual double GradientNorm() = 0;      // of the last update, before clipping, routers left out
  virtual std::string Description() = 0;  // of the device
};

// `batch` sequences of `tokens` at most at a time, `memory` keys remembered. On this machine's first CUDA
// device; and the same source on one thread of this CPU, for tests.
std::unique_ptr<DeviceStep> MakeCudaStep(const ModelConfig& config, const Layout& layout, int64_t batch,
                                         int64_t tokens, int64_t memory);
std::unique_ptr<DeviceStep> MakeHostStep(const ModelConfig& config, const Layout& layout, int64_t batch,
                                         int64_t tokens, int64_t memory);

}  // namespace omni::train
