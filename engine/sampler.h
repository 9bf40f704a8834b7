// From logits to a token: repetition penalty, temperature, top-k, top-p, min-p, then a draw by a counter generator of
// (seed, position). Deterministic on every machine: exp is kernels::Exp, sums are in candidate order.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "engine/base/ids.h"

namespace omni {

struct SamplerSettings {
  float temperature = 0.8f;         // 0: greedy (lowest id wins equal logits)
  int32_t top_k = 40;               // 0: off
  float top_p = 0.95f;              // 1: off
  float min_p = 0.0f;               // 0: off; drop candidates below min_p * max probability
  float repetition_penalty = 1.0f;  // 1: off; logits of tokens seen in the last `repetition_window` divide or multiply
  int32_t repetition_window = 64;
  uint64_t seed = 0;
};
absl::Status Validate(const SamplerSettings& s);  // names the flag, the value and the range

struct Sampled {
  TokenId token;
  float probability = 0;  // under the unmodified softmax of the logits
};
// history: the session's tokens so far; position: index of the token being drawn.
Sampled Sample(std::span<const float> logits, std::span<const TokenId> history, uint64_t position,
               const SamplerSettings& settings);

// Finds stop strings in streamed text and holds back what might become one. Bytes that would split a UTF-8 character are
// held back too, so that every emitted piece is whole characters where the text is valid UTF-8.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);
  std::string Push(std::string_view bytes);  // what may be shown now
  std::string Flush();                       // the rest, at the end of generation
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace omni
