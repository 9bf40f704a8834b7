// Guesses of the experts that coming layers will need, and how good they have been.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <absl/functional/function_ref.h>

#include "actors/counters.h"
#include "engine/decode/decoder.h"

namespace omni {

// The rows of the present layer are routed by the routers of the next expert layers: their residual stream
// lacks what comes in between, which is what makes it a guess, and what gives it time.
class RouteGuess {
 public:
  // `ahead`: expert layers, 0 to SwarmCounters::kAhead; 0 guesses nothing and counts nothing. Both references
  // outlive it.
  RouteGuess(const ModelConfig& config, int ahead, SwarmCounters& counters);

  bool active() const { return !guesses_.empty(); }
  void BeginStep();  // guesses of a step that was given up are forgotten
  // `layer` has been routed: counts what had been guessed for its rows.
  void OnRoutes(LayerId layer, std::span<const ExpertId> routes);
  // Guesses for the expert layers from `next` on. `announce` is called with the experts, ascending, of each
  // layer whose guesses have been right often enough of late to be worth reading.
  void Guess(LayerId next, Decoder& decoder,
             absl::FunctionRef<void(LayerId layer, std::span<const ExpertId> experts)> announce);

 private:
  // Below this share of right guesses, reading the wrong expert would keep the disk from the right one.
  static constexpr double kWorthReading = 0.25;

  const ModelConfig& config_;
  SwarmCounters& counters_;
  // guesses_[a][layer]: what was guessed for its rows a + 1 expert layers before; empty: nothing.
  std::vector<std::vector<std::vector<ExpertId>>> guesses_;
  std::vector<double> accuracy_;  // share of rows guessed right of late, by a
  std::vector<ExpertId> announced_;
};

}  // namespace omni
