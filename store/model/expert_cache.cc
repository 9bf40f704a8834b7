#include "store/model/expert_cache.h"

#include <algorithm>
#include <future>
#include <utility>

#include <absl/strings/str_cat.h>

namespace omni {

absl::StatusOr<std::unique_ptr<ExpertCache>> ExpertCache::Open(
    const ModelFiles& files, const std::vector<PackHeader>& packs, DeltaDb deltas,
    std::unique_ptr<TileIndex> index, const OpenedRegions& opened, const TileCacheOptions& options,
    std::unique_ptr<TileReader> reader) {
  std::unique_ptr<ExpertCache> experts(new ExpertCache(opened, std::move(deltas), std::move(index)));
  absl::StatusOr<std::unique_ptr<TileCache>> cache =
      TileCache::Make(files, *experts->index_, experts->deltas_, packs, options, std::move(reader));
  if (!cache.ok()) return cache.status();
  experts->cache_ = *std::move(cache);
  return experts;
}

std::string ExpertCache::description() const {
  return absl::StrCat(cache_->reader_description(), ", ", cache_->policy_name());
}

absl::StatusOr<ExpertTiles> ExpertCache::Acquire(LayerId layer, ExpertId expert) {
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

absl::Status ExpertCache::Resize(int64_t bytes) {
  const int64_t least = std::min(2 * index_->numbers().tiles(), index_->tiles()) * cache_->slot_bytes();
  if (bytes >= least) return cache_->Resize(bytes / cache_->slot_bytes());
  return absl::InvalidArgumentError(absl::StrCat("a cache of ", bytes,
                                                 " bytes cannot hold two experts, of which "
                                                 "one is computed while the other is read; the least is ",
                                                 least));
}

int64_t ExpertCache::TableOf(LayerId layer, ExpertId expert) const {
  const int64_t table = index_->numbers().Number(layer, expert);
  return table < 0 || opened_.Has(expert) ? table : -1;
}

void ExpertCache::Request(RequesterId requester, LayerId layer, ExpertId expert, const OnReady& on_ready,
                          const OnPartial& on_partial) {
  const int64_t table = TableOf(layer, expert);
  if (table < 0) {
    on_ready(opened_.Refusal(layer, expert));
  } else {
    cache_->Request(requester, table, on_ready, on_partial);
  }
}

void ExpertCache::ReadAhead(RequesterId requester, LayerId layer, std::span<const ExpertId> experts,
                            Foresight foresight) {
  std::vector<int64_t> tables;
  for (ExpertId expert : experts) {
    const int64_t table = TableOf(layer, expert);
    if (table >= 0) tables.push_back(table);
  }
  cache_->ReadAhead(requester, tables, foresight);
}

}  // namespace omni
