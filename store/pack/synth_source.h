// A model of any preset's shape whose weights follow from a seed: untrained, for measuring what does not
// depend on what the weights are.
#pragma once

#include <cstdint>
#include <memory>

#include <absl/status/statusor.h>

#include "engine/model/config.h"
#include "store/pack/pack_source.h"

namespace omni {

// How tokens of a synthetic model are routed, and which shares of an expert's tiles are base and member ones.
struct SynthRoutes {
  RouteFrom route_from = RouteFrom::kToken;
  float slow_rate = 0;  // 0 for kToken
  double base = 0, member = 0;
};
// Those that the config itself has.
SynthRoutes RoutesOf(const ModelConfig& config);

// `preset` cut to its first `layers` (0: all) and to `experts` (0: all; a power of two from 8 on: the
// lattice's longest edge is halved until it fits), with `delta` of each expert's tiles its own and the others
// its region's, but for the base and member ones. `routes` takes the place of what the preset says of them:
// without, the config is one of format 1.
absl::StatusOr<ModelConfig> SynthConfig(const std::string& preset, int64_t layers, int64_t experts,
                                        double delta, const SynthRoutes& routes = {});

// Every byte depends on (config, seed) and its own place alone. Routers are drawn from N(0, 1/d), so that all
// experts are reached, and where they read the slow state such that their points deviate by a quarter turn;
// scales keep activations near unit size.
std::unique_ptr<PackSource> SyntheticSource(const ModelConfig& config, uint64_t seed);

// Bytes of the model directory that SyntheticSource makes, as good as exact: all but the database and the
// manifests.
int64_t SynthBytes(const ModelConfig& config, bool whole);

}  // namespace omni
