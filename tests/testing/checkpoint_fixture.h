// Training checkpoints of random but valid weights, as the trainer would write them.
#pragma once

#include <absl/container/btree_map.h>
#include <absl/status/status.h>

#include <cstdint>
#include <string>
#include <vector>

#include "engine/model/config.h"
#include "engine/text/tokenizer.h"

namespace omni::testing {

struct Tensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
  std::vector<uint8_t> bytes = {};  // in place of values
};

// A checkpoint in memory, so that a test may change it before it is written.
struct Checkpoint {
  ModelConfig config;
  Tokenizer tokenizer;
  absl::btree_map<std::string, Tensor> tensors;  // every tensor engine/model/checkpoint.h names
};

// Weights of mean 0 and deviation 1/sqrt(d), norms near 1, W_route of twice that deviation (so that routing
// spreads over the experts), positions at lattice cell centres, and a tokenizer trained on a few sentences.
// The same for the same seed.
Checkpoint RandomCheckpoint(const ModelConfig& config, uint64_t seed);

// Makes the directory `path`, which must not exist, and writes the checkpoint's files into it.
absl::Status WriteCheckpoint(const std::string& path, const Checkpoint& checkpoint);

absl::Status WriteRandomCheckpoint(const std::string& path, const ModelConfig& config, uint64_t seed);

// d = 64, r = 8, f = 128, 4 layers, 8 experts in 2 regions (4x2x1 by 2x2x1), own_neurons = 64.
ModelConfig SmallConfig();
// Nothing divides anything: d = 70, r = 5, f = 130, 6 experts (3x2x1) in 3 regions (1x2x1), 5 layers with
// attention every third, own_neurons = 66.
ModelConfig OddCheckpointConfig();
// OddCheckpointConfig with 3 layers, two of them of experts. A region's keyframe is expert 0, 1 or 2; it has
// three tiles.
ModelConfig ShortConfig();

// RandomCheckpoint(config, 5) whose experts are copies of their region's keyframe but for nine trits each, so
// that they are packed as scattered deltas.
Checkpoint NearlyEqualExperts(const ModelConfig& config);

}  // namespace omni::testing
