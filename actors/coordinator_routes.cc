// What CoordinatorState tells the regions of the experts to come.
#include <algorithm>

#include "actors/coordinator_state.h"

namespace omni {

// Experts that the rows' policies know before the layer starts.
void CoordinatorState::ReadAhead(LayerId layer) {
  if (!has_policies_ || config_.IsAttention(layer.value)) return;
  known_.clear();
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (rows_[i].policy == nullptr) continue;
    if (const auto expert = rows_[i].policy->KnownBefore(layer, positions_[i])) known_.push_back(*expert);
  }
  Announce(layer, Foresight::kKnown);
}

// What the sessions' first rows will ask of every layer, in the order in which it is needed.
void CoordinatorState::AnnounceRoutes() {
  const bool routers_know = config_.has_slow_state() && options_.predict_ahead > 0;
  if (!routers_know && !has_policies_) return;
  for (int64_t l = 0; l < config_.layers; ++l) {
    if (config_.IsAttention(l)) continue;
    const LayerId layer(static_cast<int32_t>(l));
    std::span<const ExpertId> routes;
    if (routers_know) routes = Timed([&] { return decoder_.KnownRoutes(layer); });
    known_.clear();
    size_t looks = 0;  // whose rows, each with a route of its own, come before the part's
    for (size_t i = 0; i < parts_.size(); ++i) {
      while (looks < look_parts_.size() && look_parts_[looks] <= i) ++looks;
      const size_t route = i + (kPerspectives - 1) * looks;
      const auto first = static_cast<size_t>(parts_[i].begin);
      std::optional<ExpertId> expert;
      if (rows_[first].policy != nullptr)
        expert = rows_[first].policy->KnownAtStart(layer, positions_[first]);
      if (!expert.has_value() && route < routes.size()) expert = routes[route];
      if (expert.has_value()) known_.push_back(*expert);
    }
    Timed([&] { Announce(layer, Foresight::kKnown); });
  }
}

// Of the layer that has just been asked for its experts.
void CoordinatorState::AnnounceNext(LayerId layer) {
  if (second_pass_) return;
  known_.clear();
  for (const Part& part : parts_) {
    const auto last = static_cast<size_t>(part.begin + part.rows - 1);
    if (rows_[last].policy == nullptr) continue;
    const std::optional<ExpertId> next = rows_[last].policy->KnownNext(layer, positions_[last] + 1);
    if (next.has_value()) known_.push_back(*next);
  }
  Foresight foresight = Foresight::kKnown;
  if (known_.empty() && config_.has_slow_state() && options_.predict_ahead > 0) {
    const std::span<const ExpertId> routes = Timed([&] { return decoder_.NextRoutes(layer); });
    known_.assign(routes.begin(), routes.end());
    if (config_.route_from == RouteFrom::kAddress) foresight = Foresight::kRegionKnown;
  }
  Timed([&] { Announce(layer, foresight); });
}

// The experts in known_.
void CoordinatorState::Announce(LayerId layer, Foresight foresight) {
  if (known_.empty()) return;
  std::sort(known_.begin(), known_.end());
  known_.erase(std::unique(known_.begin(), known_.end()), known_.end());
  calls_.Prefetch(layer, known_, foresight);
}

// Of the expert layer that has just been run.
void CoordinatorState::KeepRoutes() {
  if (second_pass_) return;
  const std::span<const ExpertId> routes = decoder_.routes();
  for (Part& part : parts_) {
    if (part.wants_logits && part.session->tells_routes())
      part.routes.push_back(routes[static_cast<size_t>(part.begin + part.rows - 1)]);
  }
}

}  // namespace omni
