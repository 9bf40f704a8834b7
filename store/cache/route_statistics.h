// What can be said of the routes that a model's tokens take: how they walk over the torus, how much they know
// of the token, and what a cache of tiles would make of them.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <vector>

#include <absl/container/btree_map.h>
#include <absl/container/flat_hash_map.h>

#include "engine/base/ids.h"
#include "engine/model/config.h"
#include "store/format/tile_index.h"

namespace omni {

// All figures are means over the expert layers. A share of nothing is 0.
class RouteStatistics {
 public:
  explicit RouteStatistics(const ModelConfig& config);  // valid; outlives this

  // A text's, tokens in their order; experts: [tokens, expert layers]. Texts do not touch each other.
  void Add(std::span<const TokenId> tokens, std::span<const ExpertId> experts);

  // Shares of the tokens that have one before them: it went to the same expert, to one of the same region, to
  // the same or a neighbour on the lattice.
  double same_expert() const { return Share(same_expert_); }
  double same_region() const { return Share(same_region_); }
  double one_hop() const { return Share(one_hop_); }
  double entropy() const;  // of the expert, in bits
  // Of the expert's entropy the share that the token's id tells: their mutual information as counted, which
  // is too high where tokens are rare.
  double token_information() const;
  int64_t tokens() const { return tokens_; }

 private:
  double Share(int64_t count) const;
  double ExpertEntropy(size_t place) const;

  const ModelConfig& config_;
  size_t places_ = 0;  // expert layers
  int64_t tokens_ = 0, steps_ = 0, same_expert_ = 0, same_region_ = 0, one_hop_ = 0;
  std::vector<std::vector<int64_t>> visits_;  // by place and expert
  absl::btree_map<int32_t, int64_t> token_count_;
  std::vector<absl::btree_map<uint64_t, int64_t>> pair_count_;  // by place; of token and expert
};

// What a cache that gives up the tile used longest ago would find, if in every layer it held as many tiles as
// `experts` experts have.
class LruSimulation {
 public:
  LruSimulation(const TileIndex& index, int64_t experts);  // index outlives this

  void Use(LayerId layer, ExpertId expert);  // an expert layer
  double hit_share() const;                  // of the tiles, and so of the bytes; 1 if none was asked for
  int64_t misses() const { return asked_ - hits_; }

 private:
  struct Layer {
    std::list<uint32_t> tiles;  // the one used last comes first
    absl::flat_hash_map<uint32_t, std::list<uint32_t>::iterator> at;
  };

  const TileIndex& index_;
  size_t slots_;
  int64_t asked_ = 0, hits_ = 0;
  std::vector<Layer> layers_;
};

}  // namespace omni
