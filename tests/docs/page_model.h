// The token step of docs/arithmetic.md over the files of docs/formats.md: from a model directory to logits,
// written from the pages alone.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/docs/page_arithmetic.h"
#include "tests/docs/page_files.h"

namespace omni::page {

class Model {
 public:
  explicit Model(const ModelFiles& files);  // which outlive the model

  struct Result {
    Floats logits;
    std::vector<int64_t> routes;  // one for each layer that has experts
  };
  Result Consume(int64_t token);
  // docs/formats/session_state.md
  std::string SaveState() const;
  int64_t renormalisations() const { return renormalisations_; }  // that changed a state

 private:
  struct Ring {
    std::vector<uint16_t> keys, values;  // [H_kv, W, h]
  };

  Floats Linear(const std::string& name, const Quantized& x) const;
  Floats Recurrence(int64_t layer, const Quantized& x);
  int64_t RouteOf(int64_t layer, int64_t token, const Floats& h);
  Floats Attention(int64_t layer, const Quantized& x);
  Floats SharedFfn(int64_t layer, const Quantized& h) const;
  const ExpertNeurons& Expert(int64_t layer, int64_t expert);

  const ModelFiles& files_;
  const Config& c_;
  int64_t position_ = 0, renormalisations_ = 0;
  std::map<int64_t, Floats> states_, slow_;  // S and u by layer
  std::map<int64_t, Ring> rings_;
  std::map<std::pair<int64_t, int64_t>, ExpertNeurons> experts_;  // that were used
};

}  // namespace omni::page
