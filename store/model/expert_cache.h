// The experts of a model that is larger than memory: in its pack files, those in use in a cache of tiles.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/model/expert_source.h"
#include "store/cache/tile_cache.h"
#include "store/format/delta_db.h"
#include "store/format/model_files.h"
#include "store/format/tile_index.h"
#include "store/model/opened_regions.h"

namespace omni {

// Thread-safe. What it gives out must not outlive it.
class ExpertCache final : public ExpertSource {
 public:
  // `files` and `packs`, the headers of its pack files, outlive the cache; `index` was read from `deltas`.
  // Tiles are read by `reader`. Experts that are not opened are refused.
  static absl::StatusOr<std::unique_ptr<ExpertCache>> Open(const ModelFiles& files,
                                                           const std::vector<PackHeader>& packs,
                                                           DeltaDb deltas, std::unique_ptr<TileIndex> index,
                                                           const OpenedRegions& opened,
                                                           const TileCacheOptions& options,
                                                           std::unique_ptr<TileReader> reader);

  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override;
  bool resident() const override { return false; }
  void Request(RequesterId requester, LayerId layer, ExpertId expert, const OnReady& on_ready,
               const OnPartial& on_partial = {}) override;
  void ReadAhead(RequesterId requester, LayerId layer, std::span<const ExpertId> experts,
                 Foresight foresight) override;
  void ForgetRequester(RequesterId requester) override { cache_->ForgetRequester(requester); }

  CacheStats stats() const { return cache_->stats(); }
  // How tiles are read and chosen: "io_uring, O_DIRECT, registered buffers, torus".
  std::string description() const;
  std::span<const uint8_t> filled_memory() const { return cache_->filled_memory(); }  // that ever held a tile
  void Forget() { cache_->Clear(); }  // gives up all tiles that nobody uses
  // What the cache takes of memory, at most, from now on, also while experts are asked for: never another
  // result. Waits as TileCache::Resize. InvalidArgument: less than two experts; ResourceExhausted: the system
  // has no more memory. The message says what would do.
  absl::Status Resize(int64_t bytes);
  int64_t bytes() const { return cache_->slots() * cache_->slot_bytes(); }

 private:
  ExpertCache(OpenedRegions opened, DeltaDb deltas, std::unique_ptr<TileIndex> index)
      : opened_(std::move(opened)), deltas_(std::move(deltas)), index_(std::move(index)) {}
  int64_t TableOf(LayerId layer, ExpertId expert) const;  // -1: not served

  OpenedRegions opened_;
  DeltaDb deltas_;
  std::unique_ptr<TileIndex> index_;
  std::unique_ptr<TileCache> cache_;
};

}  // namespace omni
