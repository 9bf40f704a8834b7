#include "store/model/streamed_model.h"

#include <algorithm>
#include <future>
#include <utility>

#include <absl/strings/str_cat.h>

#include "store/format/model_stats.h"
#include "store/model/resident_model.h"

namespace omni {
namespace {

constexpr int64_t kNoLimit = int64_t{1} << 60;

TileContents ContentsOf(const ModelConfig& config, const TileIndex& index) {
  TileContents contents(config);
  contents.Allocate();
  const TableNumbers& numbers = index.numbers();
  for (int64_t table = 0; table < numbers.tables(); ++table) {
    for (int64_t t = 0; t < numbers.tiles(); ++t)
      contents.Set(table, t, contents.NumberOf(index.tile(index.Of(table)[t]).ref.hash));
  }
  return contents;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StreamedModel>> StreamedModel::Open(const std::string& dir,
                                                                   const OpenOptions& options) {
  absl::StatusOr<ModelFiles> files = ReadModelFiles(dir);
  if (!files.ok()) return files.status();
  std::unique_ptr<StreamedModel> model(new StreamedModel(*std::move(files)));
  if (absl::Status s = model->Load(options); !s.ok()) return s;
  return model;
}

absl::Status StreamedModel::Load(const OpenOptions& options) {
  absl::StatusOr<std::vector<PackHeader>> packs = ReadPackHeaders(files_);
  if (!packs.ok()) return packs.status();
  packs_ = *std::move(packs);
  if (absl::Status s = CheckDeltaFiles(files_); !s.ok()) return s;

  // Planned before anything of size is loaded.
  const ModelConfig& config = files_.manifest.config;
  if (absl::Status s = CheckTableCount(files_, TableNumbers(config)); !s.ok()) return s;
  const ModelSizes sizes = SizesOf(files_, packs_);
  const int64_t fixed =
      options.cache_bytes > 0 ? options.cache_bytes / std::max<int64_t>(1, sizes.tile_stride) : 0;
  absl::StatusOr<MemoryPlan> plan =
      PlanMemory(sizes, fixed > 0 ? kNoLimit : options.ram_bytes, options.sessions);
  if (!plan.ok()) {
    return absl::Status(plan.status().code(), absl::StrCat(files_.dir, ": ", plan.status().message()));
  }
  plan_ = *plan;
  if (fixed > 0) {
    plan_.cache_tiles = std::min(fixed, plan_.unique_tiles);
    plan_.ram_bytes = plan_.used_bytes();
  }

  absl::StatusOr<SharedWeights> shared = SharedWeights::Load(files_);
  if (!shared.ok()) return shared.status();
  shared_.emplace(*std::move(shared));
  absl::StatusOr<DeltaDb> deltas = DeltaDb::Open(files_.PathOf(kDeltasFolder));
  if (!deltas.ok()) return deltas.status();
  deltas_.emplace(*std::move(deltas));
  absl::StatusOr<std::unique_ptr<TileIndex>> index = TileIndex::Read(files_, *deltas_, packs_);
  if (!index.ok()) return index.status();
  index_ = *std::move(index);
  stats_ = CountStats(files_, ContentsOf(config, *index_));

  TileCacheOptions cache = options.cache;
  cache.slots = plan_.cache_tiles;
  absl::StatusOr<std::unique_ptr<TileCache>> made = TileCache::Make(files_, *index_, *deltas_, packs_, cache);
  if (!made.ok()) return made.status();
  cache_ = *std::move(made);
  return absl::OkStatus();
}

std::string StreamedModel::streaming() const {
  return absl::StrCat(cache_->reads_description(), ", ", cache_->policy_name());
}

absl::StatusOr<ExpertTiles> StreamedModel::Acquire(LayerId layer, ExpertId expert) {
  std::promise<absl::StatusOr<ExpertTiles>> promise;
  std::future<absl::StatusOr<ExpertTiles>> future = promise.get_future();
  Request(RequesterId(), layer, expert,
          [&promise](absl::StatusOr<ExpertTiles> tiles) { promise.set_value(std::move(tiles)); });
  absl::StatusOr<ExpertTiles> tiles = future.get();
  if (!tiles.ok() || !tiles->check) return tiles;
  for (size_t t = 0; t < tiles->tiles.size(); ++t) {
    if (absl::Status s = tiles->check(static_cast<int64_t>(t)); !s.ok()) return s;
  }
  tiles->check = nullptr;
  return tiles;
}

void StreamedModel::Request(RequesterId requester, LayerId layer, ExpertId expert, const OnReady& on_ready,
                            const OnPartial& on_partial) {
  const int64_t table = index_->numbers().Number(layer, expert);
  if (table < 0) {
    on_ready(NoSuchExpert(files_, layer, expert));
  } else {
    cache_->Request(requester, table, on_ready, on_partial);
  }
}

void StreamedModel::ReadAhead(RequesterId requester, LayerId layer, std::span<const ExpertId> experts) {
  std::vector<int64_t> tables;
  for (ExpertId expert : experts) {
    const int64_t table = index_->numbers().Number(layer, expert);
    if (table >= 0) tables.push_back(table);
  }
  cache_->ReadAhead(requester, tables);
}

}  // namespace omni
