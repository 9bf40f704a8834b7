#include "store/plan/forecast.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <list>
#include <set>
#include <utility>
#include <vector>

#include "engine/base/splitmix.h"
#include "store/format/tile.h"

namespace omni {
namespace {

constexpr int64_t kWarmTokens = 1500, kCountedTokens = 1500;
constexpr uint64_t kSeed = 20;

int64_t ExpertLayers(const ModelConfig& config) {
  int64_t n = 0;
  for (int64_t l = 0; l < config.layers; ++l) n += !config.IsAttention(l);
  return n;
}

double TilesOf(int64_t neurons) { return static_cast<double>((neurons + kTileNeurons - 1) / kTileNeurons); }

// Hops between two experts, along the axes, each of which is a ring.
int64_t Hops(const ModelConfig& c, int64_t a, int64_t b) {
  int64_t hops = 0;
  for (int64_t n : c.lattice) {
    const int64_t apart = std::abs(a % n - b % n);
    hops += std::min(apart, n - apart);
    a /= n, b /= n;
  }
  return hops;
}

std::vector<int64_t> OneStep(const ModelConfig& c, int64_t e) {
  std::vector<int64_t> to;
  for (int64_t stride = 1; int64_t n : c.lattice) {
    const int64_t at = e / stride % n;
    for (int64_t step : {int64_t{1}, n - 1}) to.push_back(e + ((at + step) % n - at) * stride);
    stride *= n;
  }
  return to;
}

// Where tokens go, layer by layer.
class Walk {
 public:
  Walk(const ModelConfig& config, const Locality& locality)
      : experts_(config.num_experts()), locality_(locality), near_(static_cast<size_t>(experts_)) {
    for (int64_t e = 0; e < experts_; ++e) {
      std::set<int64_t> around;
      for (int64_t first : OneStep(config, e)) {
        around.insert(first);
        for (int64_t second : OneStep(config, first)) around.insert(second);
      }
      for (int64_t other : around) {
        const int64_t hops = Hops(config, e, other);
        if (hops > 0) near_[static_cast<size_t>(e)][static_cast<size_t>(hops - 1)].push_back(other);
      }
    }
  }

  int64_t Next(int64_t expert) {
    double u = Uniform();
    const auto& [one, two] = near_[static_cast<size_t>(expert)];
    if ((u -= locality_.same) < 0) return expert;
    if ((u -= locality_.one_hop) < 0) return Pick(one, expert);
    if ((u -= locality_.two_hops) < 0) return Pick(two, expert);
    if (experts_ == 1) return expert;
    const int64_t other = Below(experts_ - 1);
    return other + (other >= expert);
  }

 private:
  double Uniform() { return CounterUniform(kSeed, counter_++); }
  int64_t Below(int64_t n) {
    return std::min(n - 1, static_cast<int64_t>(Uniform() * static_cast<double>(n)));
  }
  int64_t Pick(const std::vector<int64_t>& from, int64_t otherwise) {
    return from.empty() ? otherwise : from[static_cast<size_t>(Below(static_cast<int64_t>(from.size())))];
  }

  int64_t experts_;
  Locality locality_;
  std::vector<std::array<std::vector<int64_t>, 2>> near_;  // by expert: those one and two hops away
  uint64_t counter_ = 0;
};

// Groups of tiles that come and go together, the one not used for the longest time first.
class GroupCache {
 public:
  GroupCache(size_t groups, double slots) : free_(slots), place_(groups, order_.end()) {}

  // The share of the group's `tiles` tiles that was there. All of them are afterwards, as far as they fit.
  double Use(size_t group, double tiles) {
    if (tiles <= 0) return 1;
    auto& place = place_[group];
    if (place != order_.end()) {
      order_.splice(order_.begin(), order_, place);
      return 1;
    }
    while (free_ < tiles && !order_.empty()) {
      const auto [oldest, its_tiles] = order_.back();
      free_ += its_tiles;
      place_[oldest] = order_.end();
      order_.pop_back();
    }
    if (free_ < tiles) return 0;
    free_ -= tiles;
    order_.emplace_front(group, tiles);
    place = order_.begin();
    return 0;
  }

 private:
  double free_;
  std::list<std::pair<size_t, double>> order_;  // group, its tiles; the last used first
  std::vector<std::list<std::pair<size_t, double>>::iterator> place_;
};

}  // namespace

TokenBytes BytesPerToken(const ModelConfig& c, const ModelSizes& sizes) {
  TokenBytes token;
  token.shared = sizes.shared_bytes;
  token.experts = ExpertLayers(c) * sizes.tiles_per_expert * sizes.tile_stride;
  const int64_t attention = c.layers - ExpertLayers(c);
  token.keys_values = attention * 2 * c.kv_heads * c.window * c.head_dim() * 2;  // float16
  token.recurrent = sizes.session_bytes - token.keys_values;
  return token;
}

Locality Uniform(const ModelConfig& config) {
  const double same = 1 / static_cast<double>(config.num_experts());
  return {same, 0, 0, 1 - same};
}

double OwnTiles(const ModelConfig& c, const ModelSizes& sizes) {
  if (c.base_neurons + c.member_neurons > 0) return TilesOf(c.own_neurons);
  const auto tiles = static_cast<double>(sizes.tiles_per_expert);
  const int64_t layers = ExpertLayers(c), others = c.num_experts() - c.num_regions();
  if (layers == 0 || others == 0) return tiles;
  // unique_tiles = layers * (regions * tiles + others * own)
  const double keyframes = static_cast<double>(c.num_regions()) * tiles;
  const double rest = static_cast<double>(sizes.unique_tiles) / static_cast<double>(layers) - keyframes;
  return std::clamp(rest / static_cast<double>(others), 0.0, tiles);
}

double ExpectedHits(const ModelConfig& c, const ModelSizes& sizes, const MemoryPlan& plan,
                    const Locality& locality) {
  const int64_t layers = ExpertLayers(c);
  if (layers == 0 || plan.cache_tiles >= plan.unique_tiles) return 1;
  const int64_t experts = c.num_experts(), regions = c.num_regions(), members = c.experts_per_region();
  const auto tiles = static_cast<double>(sizes.tiles_per_expert);
  const double own = OwnTiles(c, sizes), base = TilesOf(c.base_neurons), member = TilesOf(c.member_neurons);
  Walk walk(c, locality);
  // By layer: the base, the regions, the members, the experts.
  const int64_t groups = 1 + regions + members + experts;
  GroupCache cache(static_cast<size_t>(layers * groups), static_cast<double>(plan.cache_tiles));
  std::vector<int64_t> at(static_cast<size_t>(layers));
  double hits = 0;
  for (int64_t token = 0; token < kWarmTokens + kCountedTokens; ++token) {
    for (int64_t layer = 0; layer < layers; ++layer) {
      int64_t& place = at[static_cast<size_t>(layer)];
      place = walk.Next(place);
      const ExpertId expert(static_cast<int32_t>(place));
      double got = 0;
      const auto use = [&](int64_t group, double of) {
        if (of > 0) got += of * cache.Use(static_cast<size_t>(layer * groups + group), of);
      };
      use(0, base);
      use(1 + c.RegionOf(expert).value, tiles - base - member - own);
      use(1 + regions + c.IndexInRegion(expert), member);
      use(1 + regions + members + place, own);
      if (token >= kWarmTokens) hits += got / tiles;
    }
  }
  return hits / static_cast<double>(kCountedTokens * layers);
}

double ExpectedRate(const TokenBytes& token, double hits, const TierSpeeds& speeds, bool known) {
  const double missed = static_cast<double>(token.experts) * (1 - hits);
  if (speeds.ram_bytes_per_s <= 0 || (missed > 0 && speeds.disk_bytes_per_s <= 0)) return 0;
  const double disk_seconds = missed > 0 ? missed / speeds.disk_bytes_per_s : 0;
  const double ram_seconds = static_cast<double>(token.ram()) / (kMemoryShare * speeds.ram_bytes_per_s);
  return 1 / (known ? std::max(ram_seconds, disk_seconds) : ram_seconds + disk_seconds);
}

}  // namespace omni
