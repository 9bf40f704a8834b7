// A small model in one file, for a machine that has none of the libraries its packed form is read with:
// config, shared.bin, each distinct tile once, which tiles every expert has, and a text's tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/model/expert_source.h"
#include "engine/model/weights.h"
#include "store/format/shared_layout.h"

namespace omni {

// shared: the bytes of shared.bin.
absl::Status WriteFlatModel(const std::string& path, const ModelConfig& config, const std::string& shared,
                            ExpertSource& experts, const std::vector<TokenId>& tokens);

class FlatModel final : public ExpertSource {
 public:
  static absl::StatusOr<std::unique_ptr<FlatModel>> Read(const std::string& path);

  const ModelWeights& weights() const { return weights_; }
  const std::vector<TokenId>& tokens() const { return tokens_; }
  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override;

 private:
  std::vector<uint64_t> shared_, tiles_;  // aligned
  std::vector<const uint8_t*> table_;     // [expert layers, experts, tiles]
  std::vector<int64_t> number_of_layer_;  // among those with experts
  std::vector<TokenId> tokens_;
  ModelWeights weights_;
};

}  // namespace omni
