// A model of random weights whose logits are small, so that it is not sure of anything and learns from any
// text; and such a text.
#pragma once

#include <string>
#include <vector>

#include "engine/text/tokenizer.h"
#include "tests/testing/random_model.h"

namespace omni::testing {

class UnsureModel {
 public:
  UnsureModel(const ModelConfig& config, uint64_t seed)
      : model_(config, seed), gain_(static_cast<size_t>(config.d), 0.05f), weights_(model_.weights()) {
    weights_.norm_out = gain_.data();
  }
  const ModelWeights& weights() const { return weights_; }
  RandomModel& experts() { return model_; }

 private:
  RandomModel model_;
  std::vector<float> gain_;
  ModelWeights weights_;
};

inline Tokenizer SingleBytes() { return *Tokenizer::Train("", 257); }

inline std::string RepeatingText(size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += "the old captain looked at the sea; ";
  return text;
}

}  // namespace omni::testing
