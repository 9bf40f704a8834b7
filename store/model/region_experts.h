// The experts of some of a model's regions, kept in memory: what a node needs that serves them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/model/expert_source.h"
#include "store/format/delta_db.h"
#include "store/format/model_files.h"
#include "store/format/tile_index.h"
#include "store/format/tile_reader.h"
#include "store/model/opened_regions.h"

namespace omni {

// Acquire takes no lock, and what it returns outlives this.
class RegionExperts final : public ExpertSource {
 public:
  // Reads the tiles of the opened experts and no others, each once, and checks them; errors name source,
  // tile, expert and layer. `files` outlives this.
  static absl::StatusOr<std::unique_ptr<RegionExperts>> Load(const ModelFiles& files,
                                                             const std::vector<PackHeader>& packs,
                                                             const DeltaDb& deltas, const TileIndex& index,
                                                             const OpenedRegions& opened,
                                                             std::unique_ptr<TileReader> reader);

  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override;

 private:
  struct Tiles {
    AlignedBuffer memory;
    std::vector<const uint8_t*> pointers;  // by table and tile; null if the expert was not opened
  };
  RegionExperts(TableNumbers numbers, OpenedRegions opened, std::shared_ptr<const Tiles> tiles)
      : numbers_(std::move(numbers)), opened_(std::move(opened)), tiles_(std::move(tiles)) {}

  TableNumbers numbers_;
  OpenedRegions opened_;
  std::shared_ptr<const Tiles> tiles_;
};

}  // namespace omni
