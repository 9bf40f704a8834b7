// From logits to a token: repetition penalty, temperature, top-k, top-p, min-p, then a draw by a counter
// generator of (seed, position). Deterministic on every machine: exp is the kernels', and sums have one
// order.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>

#include "engine/base/ids.h"
#include "engine/base/range.h"
#include "engine/text/stop_matcher.h"

namespace omni {

struct SamplerSettings {
  float temperature = 0.8f;  // 0: greedy (lowest id wins equal logits)
  int32_t top_k = 40;        // 0: off
  float top_p = 0.95f;       // 1: off
  float min_p = 0.0f;        // 0: off; drop candidates below min_p * max probability
  float repetition_penalty =
      1.0f;  // 1: off; logits of tokens seen in the last `repetition_window` divide or multiply
  int32_t repetition_window = 64;
  uint64_t seed = 0;
};

// What the settings may be; greedy is temperature 0, and a repetition_window of 0 penalises nothing.
inline constexpr Range<float> kTemperatures{0, 100}, kTopPs{0, 1, /*above_low=*/true}, kMinPs{0, 1};
inline constexpr Range<float> kRepetitionPenalties{0.01f, 100};
inline constexpr Range<int32_t> kTopKs{0, INT32_MAX}, kRepetitionWindows{0, INT32_MAX};
absl::Status Validate(const SamplerSettings& s);  // names the field and its flag, the value and the range

struct Sampled {
  TokenId token;
  float probability = 0;  // under the unmodified softmax of the logits
};
// history: the session's tokens so far; position: index of the token being drawn. The steps, in this order:
//   penalty      once per distinct token of the last repetition_window: positive logits divided, others
//                multiplied
//   greedy       temperature 0 ends here with the largest logit
//   temperature  logits are divided by it
//   top-k        the k largest stay, of equal ones the lower ids
//   top-p        of their softmax, the shortest prefix by falling probability that sums to top_p or more
//   min-p        those of at least min_p times the largest probability
//   draw         among what is left, by CounterUniform(seed, position)
// At least one candidate passes every step. NaN counts as -infinity, and such tokens are never drawn; without
// any other logit the result is token 0 with probability 0. Thread-safe.
Sampled Sample(std::span<const float> logits, std::span<const TokenId> history, uint64_t position,
               const SamplerSettings& settings);

// The `count` likeliest tokens under the same unmodified softmax, of equally likely ones the lower ids first;
// fewer if there are no more that may be drawn at all. Settings do not matter. Thread-safe.
std::vector<Sampled> Likeliest(std::span<const float> logits, int32_t count);

}  // namespace omni
