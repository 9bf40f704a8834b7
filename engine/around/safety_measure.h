// What a polytope does to texts that are read with it and without.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/around/safety_projection.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/expert_source.h"
#include "engine/model/weights.h"
#include "engine/text/tokenizer.h"

namespace omni {

struct SafetyEffect {
  int64_t texts = 0, tokens = 0, bytes = 0;   // predicted, and of the texts
  int64_t projected = 0;                      // hidden states that were outside
  double distance = 0, largest_distance = 0;  // sum over all tokens
  double nats = 0, nats_projected = 0;        // of the texts, without and with
  int64_t other_likeliest = 0;                // the likeliest token was another one
  // Of the tokens asked about: the sum of their probabilities over all positions, and at how many positions
  // one of them was the likeliest.
  double mass = 0, mass_projected = 0;
  int64_t likeliest = 0, likeliest_projected = 0;
};

// Each text begins afresh after an end-of-text, and its end is not predicted; at most `most_tokens` of each.
// Deterministic. Errors are the source's and Projector::Project's.
absl::StatusOr<SafetyEffect> MeasureSafety(const ModelWeights& weights, ExpertSource& source,
                                           const Tokenizer& tokenizer, WorkerPool& pool,
                                           const std::vector<std::string_view>& texts,
                                           const Projector& projector, const std::vector<TokenId>& asked,
                                           int64_t most_tokens);

// One token that follows a prompt, with the polytope and without.
struct ExplainedToken {
  TokenId token;                  // that is gone on with: the likeliest, with the polytope
  TokenId without;                // the likeliest without it
  float probability = 0;          // of `token`, with the polytope
  float probability_without = 0;  // of `token`, without
  Projection projection;
  std::vector<int32_t> violated;  // half-spaces, the one violated most first; at most 5
};
absl::StatusOr<std::vector<ExplainedToken>> ExplainSafety(const ModelWeights& weights, ExpertSource& source,
                                                          WorkerPool& pool, std::vector<TokenId> prompt,
                                                          const Projector& projector, int64_t tokens);

}  // namespace omni
