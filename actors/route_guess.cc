#include "actors/route_guess.h"

#include <algorithm>

namespace omni {

RouteGuess::RouteGuess(const ModelConfig& config, int ahead, SwarmCounters& counters)
    : config_(config), counters_(counters) {
  guesses_.resize(static_cast<size_t>(std::clamp(ahead, 0, SwarmCounters::kAhead)));
  for (auto& layers : guesses_) layers.resize(static_cast<size_t>(config_.layers));
  accuracy_.assign(guesses_.size(), 0.5);
}

void RouteGuess::BeginStep() {
  for (auto& layers : guesses_) {
    for (auto& guess : layers) guess.clear();
  }
}

void RouteGuess::OnRoutes(LayerId layer, std::span<const ExpertId> routes) {
  for (size_t ahead = 0; ahead < guesses_.size(); ++ahead) {
    std::vector<ExpertId>& guess = guesses_[ahead][layer.index()];
    if (guess.size() == routes.size()) {
      int64_t right = 0;
      for (size_t row = 0; row < routes.size(); ++row) right += guess[row] == routes[row];
      counters_.predicted[ahead].Add(static_cast<int64_t>(routes.size()));
      counters_.predicted_right[ahead].Add(right);
      const double share = static_cast<double>(right) / static_cast<double>(routes.size());
      accuracy_[ahead] += (share - accuracy_[ahead]) / 64;
    }
    guess.clear();
  }
}

void RouteGuess::Guess(LayerId next, Decoder& decoder,
                       absl::FunctionRef<void(LayerId, std::span<const ExpertId>)> announce) {
  int64_t layer = next.value;
  for (size_t a = 0; a < guesses_.size(); ++a) {
    while (layer < config_.layers && config_.IsAttention(layer)) ++layer;
    if (layer == config_.layers) return;
    const LayerId ahead(static_cast<int32_t>(layer++));
    const std::span<const ExpertId> routes = decoder.PredictRoutes(ahead);
    guesses_[a][ahead.index()].assign(routes.begin(), routes.end());
    if (accuracy_[a] < kWorthReading) continue;
    announced_.assign(routes.begin(), routes.end());
    std::sort(announced_.begin(), announced_.end());
    announced_.erase(std::unique(announced_.begin(), announced_.end()), announced_.end());
    announce(ahead, announced_);
  }
}

}  // namespace omni
