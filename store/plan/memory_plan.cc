#include "store/plan/memory_plan.h"

#include <algorithm>
#include <string>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/model/neuron_groups.h"
#include "engine/model/session_state.h"
#include "store/format/shared_layout.h"

namespace omni {
namespace {

// Sizes are not negative; a sum or product too large to count stays at INT64_MAX.
int64_t Add(int64_t a, int64_t b) {
  int64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

int64_t Mul(int64_t a, int64_t b) {
  int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

// All but the cache's slots.
struct Fixed {
  Fixed(const ModelSizes& sizes, int64_t sessions)
      : shared(sizes.shared_bytes),
        index(Add(Mul(Mul(sizes.tables, sizes.tiles_per_expert), kTableTileBytes + kOwnerBytes),
                  Mul(sizes.unique_tiles, kUniqueTileBytes))),
        states(Mul(sizes.session_bytes, sessions)) {}
  int64_t sum() const { return Add(Add(shared, index), Add(states, other)); }

  int64_t shared, index, states, other = kProgramBytes + kBlockCacheBytes;
};

int64_t SlotBytes(const ModelSizes& sizes) { return Add(sizes.tile_stride, kCacheSlotBytes); }

int64_t NeededTiles(const ModelSizes& sizes) {
  return std::min(Mul(2, sizes.tiles_per_expert), sizes.unique_tiles);
}

int64_t ToMebibytes(int64_t bytes) { return bytes / (1 << 20) + (bytes % (1 << 20) != 0); }

std::string Cure(const Fixed& fixed, int64_t sessions, int64_t session_bytes) {
  if (fixed.states >= std::max(fixed.shared, fixed.index) && sessions > 1) {
    return absl::StrCat("every session fewer saves ", ToMebibytes(session_bytes), " MiB");
  }
  if (fixed.index > fixed.shared) {
    return "a model of fewer experts, or whose experts share more tiles (a smaller delta), needs less";
  }
  return "a model of fewer layers or smaller width needs less";
}

absl::Status TooSmall(const ModelSizes& sizes, int64_t ram_bytes, int64_t sessions) {
  const Fixed fixed(sizes, sessions);
  const int64_t least = LeastBudget(sizes, sessions);
  const std::string cure = Cure(fixed, sessions, sizes.session_bytes);
  if (least == INT64_MAX) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory budget is enough for a model of this size; ", cure));
  }
  const int64_t cache = Mul(NeededTiles(sizes), SlotBytes(sizes));
  return absl::ResourceExhaustedError(absl::StrCat(
      "a memory budget of ", ram_bytes / (1 << 20), " MiB is too small; the least that works is ",
      ToMebibytes(least), " MiB: shared weights ", ToMebibytes(fixed.shared), ", tile index ",
      ToMebibytes(fixed.index), ", session states ", ToMebibytes(fixed.states), ", program and its buffers ",
      ToMebibytes(fixed.other), ", two experts ", ToMebibytes(cache), "; ", cure));
}

absl::Status Check(const ModelSizes& sizes, int64_t ram_bytes, int64_t sessions) {
  const struct {
    const char* name;
    int64_t value, min;
  } figures[] = {{"shared_bytes", sizes.shared_bytes, 0},
                 {"tables", sizes.tables, 0},
                 {"tiles_per_expert", sizes.tiles_per_expert, 1},
                 {"unique_tiles", sizes.unique_tiles, sizes.tables > 0 ? 1 : 0},
                 {"tile_stride", sizes.tile_stride, 1},
                 {"session_bytes", sizes.session_bytes, 0},
                 {"ram_bytes", ram_bytes, 0},
                 {"sessions", sessions, 0}};
  for (const auto& figure : figures) {
    if (figure.value >= figure.min) continue;
    return absl::InvalidArgumentError(absl::StrCat("memory plan: ", figure.name, " is ", figure.value,
                                                   "; it must be at least ", figure.min));
  }
  return absl::OkStatus();
}

int64_t ExpertLayers(const ModelConfig& config) {
  int64_t n = 0;
  for (int64_t l = 0; l < config.layers; ++l) n += !config.IsAttention(l);
  return n;
}

}  // namespace

ModelSizes SizesOf(const ModelFiles& files, const std::vector<PackHeader>& packs) {
  const ModelConfig& config = files.manifest.config;
  ModelSizes sizes;
  sizes.shared_bytes = files.manifest.files.at(kSharedFile).bytes;
  sizes.tables = config.num_experts() * ExpertLayers(config);
  sizes.tiles_per_expert = TilesPerExpert(config);
  sizes.unique_tiles = files.manifest.counts.inline_tiles;
  for (const PackHeader& pack : packs) sizes.unique_tiles += pack.count;
  sizes.tile_stride = TileLayout(config.d).payload();
  for (const PackHeader& pack : packs) sizes.tile_stride = std::max(sizes.tile_stride, pack.stride);
  sizes.session_bytes = SessionState::BytesFor(config);
  return sizes;
}

absl::StatusOr<SizedModel> ReadSizes(const std::string& path) {
  absl::StatusOr<ModelSummary> summary = SummarizeModel(path);
  if (!summary.ok()) return summary.status();
  absl::StatusOr<ModelFiles> files = ReadModelFiles(path);
  if (!files.ok()) return files.status();
  absl::StatusOr<std::vector<PackHeader>> packs = ReadPackHeaders(*files);
  if (!packs.ok()) return packs.status();
  return SizedModel{*std::move(summary), SizesOf(*files, *packs)};
}

ModelSizes ExpectedSizes(const ModelConfig& config) {
  const int64_t payload = TileLayout(config.d).payload();
  ModelSizes sizes;
  sizes.shared_bytes = SharedLayout(config).file_bytes;
  sizes.tables = config.num_experts() * ExpertLayers(config);
  sizes.tiles_per_expert = TilesPerExpert(config);
  sizes.unique_tiles = ExpertLayers(config) * UniqueTilesPerLayer(config);
  sizes.tile_stride = PackHeader::For(payload, payload >= (int64_t{64} << 10) ? 4096 : 64).stride;
  sizes.session_bytes = SessionState::BytesFor(config);
  return sizes;
}

int64_t LeastBudget(const ModelSizes& sizes, int64_t sessions) {
  return Add(Fixed(sizes, sessions).sum(), Mul(NeededTiles(sizes), SlotBytes(sizes)));
}

int64_t SessionsToPlan(const ModelSizes& sizes, int64_t ram_bytes, int64_t sessions, int64_t most) {
  constexpr int64_t kShareOfMore = 4, kShareOfAll = 16;
  const int64_t least = LeastBudget(sizes, sessions);
  if (most <= sessions || ram_bytes <= least || sizes.session_bytes <= 0) return sessions;
  const int64_t bytes = std::min((ram_bytes - least) / kShareOfMore, ram_bytes / kShareOfAll);
  return std::min(most, sessions + bytes / sizes.session_bytes);
}

absl::StatusOr<MemoryPlan> PlanMemory(const ModelSizes& sizes, int64_t ram_bytes, int64_t sessions) {
  if (absl::Status s = Check(sizes, ram_bytes, sessions); !s.ok()) return s;
  const int64_t least = LeastBudget(sizes, sessions);
  if (least == INT64_MAX || ram_bytes < least) return TooSmall(sizes, ram_bytes, sessions);
  const Fixed fixed(sizes, sessions);
  MemoryPlan plan;
  plan.ram_bytes = ram_bytes;
  plan.shared_bytes = fixed.shared;
  plan.session_bytes = fixed.states;
  plan.sessions = sessions;
  plan.state_bytes = sizes.session_bytes;
  plan.other_bytes = fixed.other;
  plan.tile_bytes = sizes.tile_stride;
  plan.needed_tiles = NeededTiles(sizes);
  plan.unique_tiles = sizes.unique_tiles;
  plan.cache_tiles = std::min(sizes.unique_tiles, (ram_bytes - fixed.sum()) / SlotBytes(sizes));
  plan.index_bytes = fixed.index + plan.cache_tiles * kCacheSlotBytes;
  return plan;
}

absl::StatusOr<MemoryPlan> PlanWhole(const ModelSizes& sizes, int64_t resident_bytes, int64_t ram_bytes,
                                     int64_t sessions) {
  if (absl::Status s = Check(sizes, ram_bytes, sessions); !s.ok()) return s;
  const int64_t states = Mul(sizes.session_bytes, sessions), least = Add(resident_bytes, states);
  if (least > ram_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a memory budget of ", ram_bytes / (1 << 20), " MiB cannot keep the model whole; that takes ",
        ToMebibytes(least), " MiB, ", ToMebibytes(states), " MiB of them session states"));
  }
  MemoryPlan plan;
  plan.ram_bytes = ram_bytes;
  plan.session_bytes = states;
  plan.sessions = sessions;
  plan.state_bytes = sizes.session_bytes;
  plan.tile_bytes = sizes.tile_stride;
  plan.cache_tiles = plan.needed_tiles = plan.unique_tiles = sizes.unique_tiles;
  plan.shared_bytes = sizes.shared_bytes;
  plan.index_bytes = std::max<int64_t>(0, resident_bytes - plan.shared_bytes - plan.cache_bytes());
  return plan;
}

}  // namespace omni
