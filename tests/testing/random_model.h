// A model of random weights in memory, with its codes both packed (for the engine) and plain (for a
// reference).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/decode/scratch.h"
#include "engine/model/expert_source.h"
#include "engine/model/weights.h"

namespace omni::testing {

// splitmix64: the same numbers on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  int64_t Below(int64_t n) { return static_cast<int64_t>(Next() % static_cast<uint64_t>(n)); }
  float Uniform(float low, float high);  // multiples of (high - low) / 2^24
  float Normal();                        // sum of 12 uniforms: mean 0, variance 1

 private:
  uint64_t state_;
};

struct PlainLinear {
  int64_t rows = 0, cols = 0;
  std::vector<int8_t> levels;  // [rows, cols], -3 .. 3
  std::vector<float> scale;    // [rows], times the level
};

struct PlainLayer {
  PlainLinear wp, wk, wq, wv, wo, gate, up, down;
  std::vector<float> norm1, norm2, bp, norm_readout, route, positions, route_bias;
  std::vector<uint8_t> members;
};

// Trits neuron-major: gate, up and down are all [f, d].
struct PlainExpert {
  std::vector<int8_t> gate, up, down;
  std::vector<float> gate_scale, up_scale;  // [f]
};

// The smallest odd shapes that every kernel's tails meet, by what they stress.
ModelConfig TinyConfig();  // the preset
ModelConfig OddConfig();   // d = 100, r = 12, f = 130, 6 experts, window 7, 1 key/value head
ModelConfig
FlaglessConfig();  // no key scale, no readout norm, attention every 2nd layer, state norm every 5th token

// Routes by the slow state: OddConfig, the nearest expert with a bias; TinyConfig, regions and members, with
// neurons of every kind.
ModelConfig AheadConfig();
ModelConfig AddressConfig();

class RandomModel : public ExpertSource {
 public:
  // Activations stay near unit size: scales follow from the fan-in.
  RandomModel(const ModelConfig& config, uint64_t seed);

  const ModelWeights& weights() const { return weights_; }
  const ModelConfig& config() const { return weights_.config; }
  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override;

  const PlainLayer& plain(int64_t layer) const { return plain_[static_cast<size_t>(layer)]; }
  PlainExpert MakeExpert(LayerId layer, ExpertId expert) const;  // made anew from the seed: experts are large
  // Embedding element: q * scale.
  int8_t embedding(int64_t token, int64_t i) const {
    return weights_.embedding.base[token * weights_.embedding.stride + i];
  }

  // For tests that move experts: the layer's positions, [experts, 3].
  float* mutable_positions(int64_t layer) { return plain_[static_cast<size_t>(layer)].positions.data(); }

 private:
  TwoBitLinear Pack(const PlainLinear& plain);
  void PackExpert(LayerId layer, ExpertId expert);

  ModelWeights weights_;
  uint64_t seed_;
  std::vector<PlainLayer> plain_;
  std::vector<float> embedding_scale_, norm_out_;
  Scratch<int8_t> embedding_;
  std::vector<Scratch<uint8_t>> matrices_,
      tiles_;  // tiles_[layer * experts + expert], empty in attention layers
  std::vector<std::vector<const uint8_t*>> tile_tables_;  // same index
};

// n tokens below vocab.
std::vector<TokenId> RandomTokens(int64_t n, int64_t vocab, uint64_t seed);

}  // namespace omni::testing
