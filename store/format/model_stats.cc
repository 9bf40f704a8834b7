#include "store/format/model_stats.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

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

// What is stored for all regions of all expert layers: keyframes, and what their regions' other experts add.
void CountRegions(const ModelFiles& files, const TileContents& contents, ModelStats* stats) {
  const ModelConfig& c = files.manifest.config;
  const TableNumbers& numbers = contents.numbers();
  std::vector<bool> seen(static_cast<size_t>(contents.unique()));
  int64_t keyframe_tiles = 0;
  for (int64_t table = 0; table < numbers.tables(); ++table) {
    if (c.IndexInRegion(numbers.Expert(table)) != 0) continue;
    ++stats->regions;
    for (int64_t t = 0; t < numbers.tiles(); ++t) {
      const uint32_t content = contents.Of(table)[t];
      keyframe_tiles += !seen[content];
      seen[content] = true;
    }
  }
  const PackCounts& counts = files.manifest.counts;
  const int64_t payload = TileLayout(c.d).payload();
  stats->keyframe_bytes = keyframe_tiles * payload;
  stats->delta_bytes =
      std::max<int64_t>(0, counts.stored_tiles - keyframe_tiles) * payload + counts.inline_bytes;
}

}  // namespace

ModelStats CountStats(const ModelFiles& files, const TileContents& contents) {
  const ModelConfig& c = files.manifest.config;
  const TableNumbers& numbers = contents.numbers();
  const int64_t tiles = numbers.tiles();
  ModelStats stats;
  stats.parameters = CountParameters(c);
  const std::vector<std::pair<ExpertId, ExpertId>> neighbours = NeighbourPairs(c);
  std::vector<bool> seen(static_cast<size_t>(contents.unique()));
  Share same_region, other_region, keyframe;
  stats.unique_parameters = stats.parameters.shared();
  for (int64_t l = 0; l < c.layers; ++l) {
    if (c.IsAttention(l)) continue;
    const LayerId layer(static_cast<int32_t>(l));
    const auto of = [&](ExpertId expert) { return contents.Of(numbers.Number(layer, expert)); };
    for (int64_t e = 0; e < c.num_experts(); ++e) {
      const ExpertId expert(static_cast<int32_t>(e));
      const uint32_t* mine = of(expert);
      for (int64_t t = 0; t < tiles; ++t) {
        if (seen[mine[t]]) continue;
        seen[mine[t]] = true;
        stats.unique_parameters += std::min(kTileNeurons, c.f - t * kTileNeurons) * 3 * c.d;
      }
      if (c.IndexInRegion(expert) == 0) continue;
      keyframe.Add(CountDiffering(mine, of(c.ExpertOf(c.RegionOf(expert), 0)), tiles), tiles);
    }
    for (const auto& [a, b] : neighbours) {
      Share& share = c.RegionOf(a) == c.RegionOf(b) ? same_region : other_region;
      share.Add(CountDiffering(of(a), of(b), tiles), tiles);
    }
    stats.tiles += c.num_experts() * tiles;
  }
  stats.unique_tiles = contents.unique();
  stats.neighbour_delta_same_region = same_region.value();
  stats.neighbour_delta_other_region = other_region.value();
  stats.keyframe_delta = keyframe.value();
  stats.total_bytes = files.manifest_bytes;
  for (const auto& [name, digest] : files.manifest.files) {
    stats.total_bytes += digest.bytes;
    if (name == kSharedFile) stats.shared_bytes = digest.bytes;
    if (name != kSharedFile && name != kTokenizerFile) stats.tile_bytes += digest.bytes;
  }
  for (const auto& [name, digest] : files.deltas.files) stats.delta_db_bytes += digest.bytes;
  stats.total_bytes += stats.delta_db_bytes;
  const PackCounts& counts = files.manifest.counts;
  stats.stored_tiles = counts.stored_tiles;
  stats.whole_tables = counts.whole_tables;
  stats.delta_tables = counts.delta_tables;
  stats.inline_tiles = counts.inline_tiles;
  stats.inline_bytes = counts.inline_bytes;
  CountRegions(files, contents, &stats);
  return stats;
}

}  // namespace omni
