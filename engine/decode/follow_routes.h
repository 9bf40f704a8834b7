// Where the tokens of a text go.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/decode/worker_pool.h"
#include "engine/model/expert_source.h"
#include "engine/model/weights.h"

namespace omni {

struct FollowedRoutes {
  std::vector<int64_t> layers;    // that have experts, ascending
  std::vector<ExpertId> experts;  // [tokens, layers]
  // Decoder::KnownRoutes was asked before every pass for each of these layers: routes of the pass's first
  // token, and how many of them it knew and knew right.
  int64_t asked = 0, known = 0;

  // Of one token.
  std::span<const ExpertId> Of(size_t token) const {
    return std::span(experts).subspan(token * layers.size(), layers.size());
  }
  int64_t tokens() const { return layers.empty() ? 0 : static_cast<int64_t>(experts.size() / layers.size()); }
};

// Through a fresh state. `progress`, if not empty, is called after every pass with the share of the tokens
// that is done.
absl::StatusOr<FollowedRoutes> FollowRoutes(const ModelWeights& weights, ExpertSource& source,
                                            WorkerPool& pool, std::span<const TokenId> tokens,
                                            const std::function<void(double share)>& progress = nullptr);

}  // namespace omni
