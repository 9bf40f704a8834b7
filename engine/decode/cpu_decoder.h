// The decoder on this machine's cores: nothing it starts is left running.
#pragma once

#include <memory>

#include "engine/decode/decoder.h"

namespace omni {

class CpuDecoder : public Decoder {
 public:
  // weights and pool outlive the decoder; weights are valid (CheckWeights).
  CpuDecoder(const ModelWeights& weights, WorkerPool& pool, const kernels::Ops& ops = kernels::ActiveOps());
  ~CpuDecoder() override;

  absl::Status Begin(std::span<const BatchRow> rows) override;
  bool takes_asides() const override { return true; }
  bool StartLayer(LayerId layer, const Done& done = {}) override;
  bool StartHidden(const Done& done = {}) override;
  bool StartLogits(const Done& done = {}) override;
  absl::StatusOr<std::vector<ExpertJob>> TakeJobs() override;
  void AddExpertOutput(const ExpertJob& job, const float* out) override;
  std::span<float> hidden(int64_t i) override;
  absl::StatusOr<std::span<const float>> logits() override;
  std::span<const ExpertId> routes() const override;
  std::span<const ExpertId> PredictRoutes(LayerId layer) override;
  std::span<const ExpertId> KnownRoutes(LayerId layer) override;
  std::span<const ExpertId> NextRoutes(LayerId layer) override;
  const kernels::Ops& ops() const override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
