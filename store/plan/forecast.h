// What to expect of a model that is streamed under a memory plan: a simple model of the cache and of a
// token's time, filled in with measured speeds.
#pragma once

#include <cstdint>

#include "engine/model/config.h"
#include "store/plan/memory_plan.h"

namespace omni {

// Bytes that one token touches, batch 1. The recurrent state is read and written.
struct TokenBytes {
  int64_t shared = 0;       // shared weights, all of them
  int64_t experts = 0;      // one expert in every expert layer
  int64_t recurrent = 0;    // states of the recurrent layers, read; as much is written
  int64_t keys_values = 0;  // of the attention layers, with the window full
  int64_t ram() const { return shared + experts + 2 * recurrent + keys_values; }
};
TokenBytes BytesPerToken(const ModelConfig& config, const ModelSizes& sizes);

// How likely a token goes, in a layer, to the expert of the token before it, to one a hop away from that on
// the torus, two hops away, or to any other. A part of the torus that has no such expert gives its share to
// the same one.
struct Locality {
  double same = 0, one_hop = 0, two_hops = 0, other = 0;  // sum 1
};
inline constexpr Locality kLocal = {0.30, 0.40, 0.15, 0.15};
Locality Uniform(const ModelConfig& config);  // every expert equally likely

// Tiles of an expert that no other has: the config's where it has base or member neurons, else those that it
// does not share with its region's keyframe, on average, as unique_tiles tells.
double OwnTiles(const ModelConfig& config, const ModelSizes& sizes);

// The share of tiles that a cache of plan.cache_tiles slots holds when they are asked for, in a steady state.
// Simulates some thousand tokens with a fixed seed, least recently used groups of tiles going first. A
// region's experts share all tiles but OwnTiles and the member ones; base and member tiles are the config's.
double ExpectedHits(const ModelConfig& config, const ModelSizes& sizes, const MemoryPlan& plan,
                    const Locality& locality);

struct TierSpeeds {
  double ram_bytes_per_s = 0, disk_bytes_per_s = 0;
};
// Of a memory's read speed, what the products reach on a large model (docs/performance.md, the full-size
// token).
inline constexpr double kMemoryShare = 0.8;
// Tokens a second: what is read from memory at kMemoryShare of its speed, and what misses the cache from
// disk, the one after the other; meanwhile if routes are `known` before their token starts. 0 if something
// must be read at an unknown speed (0).
double ExpectedRate(const TokenBytes& token, double hits, const TierSpeeds& speeds, bool known);

}  // namespace omni
