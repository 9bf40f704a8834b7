// A model whose arithmetic is cheap and forgets nothing: a wrong, missing, stale or doubled answer of an
// expert, a token out of its place, changes every token after it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "actors/region_link.h"
#include "engine/decode/decoder.h"
#include "engine/decode/token_stage.h"
#include "engine/text/tokenizer.h"

namespace omni::simulation {

const ModelConfig& ToyConfig();  // 4 regions of 2 experts, 2 layers
const Tokenizer& ToyTokenizer();

// What a region that has all its tiles answers.
std::shared_ptr<RegionReply> ToyAnswer(const RegionRequest& request);

class ToyDecoder : public Decoder {
 public:
  absl::Status Begin(std::span<const BatchRow> rows) override;
  bool StartLayer(LayerId layer, const Done& done) override;
  bool StartHidden(const Done& done) override;
  bool StartLogits(const Done&) override { return true; }
  absl::StatusOr<std::vector<ExpertJob>> TakeJobs() override;
  void AddExpertOutput(const ExpertJob& job, const float* out) override;
  std::span<float> hidden(int64_t i) override;
  absl::StatusOr<std::span<const float>> logits() override;
  std::span<const ExpertId> routes() const override { return routes_; }
  std::span<const ExpertId> PredictRoutes(LayerId) override { return {}; }
  std::span<const ExpertId> KnownRoutes(LayerId) override { return {}; }
  std::span<const ExpertId> NextRoutes(LayerId) override { return {}; }
  const kernels::Ops& ops() const override { return kernels::ActiveOps(); }

  int64_t outputs() const { return outputs_; }  // that were added so far

 private:
  std::vector<BatchRow> rows_;
  std::vector<uint64_t> x_;  // by row: what is to be known of it
  std::vector<int8_t> q_;    // [rows, 64]
  std::vector<float> scale_, hidden_, logits_;
  std::vector<ExpertId> routes_;
  LayerId layer_;
  int64_t outputs_ = 0;
};

// Chooses the token that the hidden state names.
class ToyChoice : public TokenStage {
 public:
  bool Run(std::span<TokenRow> rows, const Done& done) override;
};

// The whole answer, as a single process without faults gives it.
std::vector<TokenId> ToyReference(const std::vector<TokenId>& prompt, int64_t tokens);

}  // namespace omni::simulation
