// Polytopes made from a model's own embedding and from texts that it may write.
//
//   anchor   The tokens of the allowed texts are clustered by the directions of their embeddings (spherical
//            k-means); n is a cluster's centre, b the largest n . y over the hidden states y of those
//            texts: the model may go as far in each direction as allowed text took it.
//   denied   For a word that is one token: n is the direction of its embedding less its cluster's mean
//            embedding, b = 0: its logit is at most the mean logit of the allowed tokens most like it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/around/safety_polytope.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/expert_source.h"
#include "engine/model/weights.h"
#include "engine/text/tokenizer.h"

namespace omni {

struct PolytopeRecipe {
  std::string name = "general";
  float epsilon = 0.01f;
  int64_t half_spaces = 500;     // at most: of the denied words each token has one, the rest are anchors
  int64_t most_tokens = 20'000;  // of the allowed texts
  int64_t rounds = 12;           // of k-means
  uint64_t seed = 0;
  std::function<void(double share)> progress = nullptr;  // by the calling thread
};

struct BuiltPolytope {
  Polytope polytope;
  int64_t anchors = 0, denied = 0;
  int64_t allowed_tokens = 0;           // read
  std::vector<std::string> not_denied;  // words that are several tokens: no half-space can tell them
};

// Deterministic. Errors: no allowed text, more denied tokens than half-spaces, and what the source says.
absl::StatusOr<BuiltPolytope> BuildPolytope(const ModelWeights& weights, ExpertSource& source,
                                            const Tokenizer& tokenizer, WorkerPool& pool,
                                            const std::vector<std::string>& allowed,
                                            const std::vector<std::string>& denied,
                                            const PolytopeRecipe& recipe);

// The tokens that a word is, alone: as it stands, with a space before it, and with a capital letter, each
// where it is a single token; ascending.
std::vector<TokenId> TokensOfWord(const Tokenizer& tokenizer, std::string_view word);

}  // namespace omni
