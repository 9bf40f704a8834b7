#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "store/resident_model.h"

namespace omni {
namespace {

class Share {
 public:
  void Add(int64_t differ, int64_t of) {
    differ_ += differ;
    of_ += of;
  }
  double value() const { return of_ == 0 ? 0.0 : static_cast<double>(differ_) / static_cast<double>(of_); }

 private:
  int64_t differ_ = 0, of_ = 0;
};

// Every unordered pair of experts one wrapped lattice step apart, once: an axis of two has one step, not two.
std::vector<std::pair<ExpertId, ExpertId>> NeighbourPairs(const ModelConfig& c) {
  std::vector<std::pair<ExpertId, ExpertId>> pairs;
  for (int64_t e = 0; e < c.num_experts(); ++e) {
    const std::array<int64_t, 3> at = {e % c.lattice[0], e / c.lattice[0] % c.lattice[1],
                                       e / c.lattice[0] / c.lattice[1]};
    for (size_t axis = 0; axis < 3; ++axis) {
      const int64_t n = c.lattice[axis];
      if (n == 1 || (n == 2 && at[axis] == 1)) continue;
      std::array<int64_t, 3> to = at;
      to[axis] = (at[axis] + 1) % n;
      pairs.emplace_back(
          ExpertId(static_cast<int32_t>(e)),
          ExpertId(static_cast<int32_t>(to[0] + c.lattice[0] * (to[1] + c.lattice[1] * to[2]))));
    }
  }
  return pairs;
}

int64_t CountDiffering(const uint32_t* a, const uint32_t* b, int64_t n) {
  int64_t differ = 0;
  for (int64_t i = 0; i < n; ++i) differ += a[i] != b[i];
  return differ;
}

}  // namespace

ModelStats ResidentModel::Stats() const {
  const ModelConfig& c = manifest_.config;
  const int64_t tiles = experts_->tiles_per_expert();
  ModelStats stats;
  stats.parameters = CountParameters(c);
  const std::vector<std::pair<ExpertId, ExpertId>> neighbours = NeighbourPairs(c);
  std::vector<bool> seen(static_cast<size_t>(experts_->unique()));
  Share same_region, other_region, keyframe;
  stats.unique_parameters = stats.parameters.shared();
  for (int64_t l = 0; l < c.layers; ++l) {
    if (c.IsAttention(l)) continue;
    const LayerId layer(static_cast<int32_t>(l));
    for (int64_t e = 0; e < c.num_experts(); ++e) {
      const ExpertId expert(static_cast<int32_t>(e));
      const uint32_t* contents = experts_->Contents(layer, expert);
      for (int64_t t = 0; t < tiles; ++t) {
        if (seen[contents[t]]) continue;
        seen[contents[t]] = true;
        stats.unique_parameters += std::min(kTileNeurons, c.f - t * kTileNeurons) * 3 * c.d;
      }
      if (c.IndexInRegion(expert) == 0) continue;
      const uint32_t* base = experts_->Contents(layer, c.ExpertOf(c.RegionOf(expert), 0));
      keyframe.Add(CountDiffering(contents, base, tiles), tiles);
    }
    for (const auto& [a, b] : neighbours) {
      Share& share = c.RegionOf(a) == c.RegionOf(b) ? same_region : other_region;
      share.Add(CountDiffering(experts_->Contents(layer, a), experts_->Contents(layer, b), tiles), tiles);
    }
    stats.tiles += c.num_experts() * tiles;
  }
  stats.unique_tiles = experts_->unique();
  stats.neighbour_delta_same_region = same_region.value();
  stats.neighbour_delta_other_region = other_region.value();
  stats.keyframe_delta = keyframe.value();
  stats.total_bytes = manifest_bytes_;
  for (const auto& [name, digest] : manifest_.files) {
    stats.total_bytes += digest.bytes;
    if (name == kSharedFile) stats.shared_bytes = digest.bytes;
    if (name != kSharedFile && name != kTokenizerFile) stats.tile_bytes += digest.bytes;
  }
  for (const auto& [name, digest] : deltas_.files) stats.delta_db_bytes += digest.bytes;
  stats.total_bytes += stats.delta_db_bytes;
  stats.stored_tiles = manifest_.counts.stored_tiles;
  stats.whole_tables = manifest_.counts.whole_tables;
  stats.delta_tables = manifest_.counts.delta_tables;
  stats.inline_tiles = manifest_.counts.inline_tiles;
  stats.inline_bytes = manifest_.counts.inline_bytes;
  return stats;
}

}  // namespace omni
