#include "store/cache/route_statistics.h"

#include <algorithm>
#include <cmath>

#include "store/format/torus.h"

namespace omni {
namespace {

// -p log2 p of a count.
double Term(int64_t count, int64_t all) {
  if (count == 0) return 0;
  const double p = static_cast<double>(count) / static_cast<double>(all);
  return -p * std::log2(p);
}

}  // namespace

RouteStatistics::RouteStatistics(const ModelConfig& config) : config_(config) {
  for (int64_t l = 0; l < config.layers; ++l) places_ += !config.IsAttention(l);
  visits_.assign(places_, std::vector<int64_t>(static_cast<size_t>(config.num_experts())));
  pair_count_.resize(places_);
}

void RouteStatistics::Add(std::span<const TokenId> tokens, std::span<const ExpertId> experts) {
  tokens_ += static_cast<int64_t>(tokens.size());
  if (!tokens.empty()) steps_ += static_cast<int64_t>((tokens.size() - 1) * places_);
  for (size_t t = 0; t < tokens.size(); ++t) {
    ++token_count_[tokens[t].value];
    for (size_t place = 0; place < places_; ++place) {
      const ExpertId expert = experts[t * places_ + place];
      ++visits_[place][expert.index()];
      ++pair_count_[place]
                   [static_cast<uint64_t>(tokens[t].value) << 32 | static_cast<uint32_t>(expert.value)];
      if (t == 0) continue;
      const ExpertId before = experts[(t - 1) * places_ + place];
      same_expert_ += before == expert;
      same_region_ += config_.RegionOf(before) == config_.RegionOf(expert);
      one_hop_ += TorusDistance(config_, before.value, expert.value) <= 1;
    }
  }
}

double RouteStatistics::Share(int64_t count) const {
  return steps_ == 0 ? 0 : static_cast<double>(count) / static_cast<double>(steps_);
}

double RouteStatistics::ExpertEntropy(size_t place) const {
  double bits = 0;
  for (const int64_t count : visits_[place]) bits += Term(count, tokens_);
  return bits;
}

double RouteStatistics::entropy() const {
  double sum = 0;
  for (size_t place = 0; place < places_; ++place) sum += ExpertEntropy(place);
  return places_ == 0 ? 0 : sum / static_cast<double>(places_);
}

double RouteStatistics::token_information() const {
  double token_bits = 0;
  for (const auto& [token, count] : token_count_) token_bits += Term(count, tokens_);
  double sum = 0;
  for (size_t place = 0; place < places_; ++place) {
    double joint = 0;
    for (const auto& [pair, count] : pair_count_[place]) joint += Term(count, tokens_);
    const double expert = ExpertEntropy(place);
    if (expert > 0) sum += std::max(0.0, expert + token_bits - joint) / expert;
  }
  return places_ == 0 ? 0 : sum / static_cast<double>(places_);
}

LruSimulation::LruSimulation(const TileIndex& index, int64_t experts)
    : index_(index), slots_(static_cast<size_t>(experts * index.numbers().tiles())) {
  if (index.numbers().experts() > 0)
    layers_.resize(static_cast<size_t>(index.numbers().tables() / index.numbers().experts()));
}

void LruSimulation::Use(LayerId layer_id, ExpertId expert) {
  const int64_t table = index_.numbers().Number(layer_id, expert), tiles = index_.numbers().tiles();
  Layer& layer = layers_[static_cast<size_t>(table / index_.numbers().experts())];
  const uint32_t* contents = index_.Of(table);
  asked_ += tiles;
  for (int64_t t = 0; t < tiles; ++t) {
    const auto found = layer.at.find(contents[t]);
    if (found != layer.at.end()) {
      ++hits_;
      layer.tiles.splice(layer.tiles.begin(), layer.tiles, found->second);
      continue;
    }
    if (layer.at.size() == slots_) {
      layer.at.erase(layer.tiles.back());
      layer.tiles.pop_back();
    }
    layer.tiles.push_front(contents[t]);
    layer.at[contents[t]] = layer.tiles.begin();
  }
}

double LruSimulation::hit_share() const {
  return asked_ == 0 ? 1 : static_cast<double>(hits_) / static_cast<double>(asked_);
}

}  // namespace omni
