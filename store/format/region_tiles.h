// Which stored tiles each region of a model needs, and which regions a part of a model has all tiles of.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <absl/status/status.h>

#include "engine/base/ids.h"
#include "store/format/model_files.h"
#include "store/format/present_tiles.h"
#include "store/format/tile_index.h"

namespace omni {

// By region: the numbers (PresentTiles) of the tiles that must be there to have its experts of all layers,
// ascending, each once. Tiles that several regions need are in the list of each.
std::vector<std::vector<uint32_t>> TilesByRegion(const ModelConfig& config, const PresentTiles& numbers,
                                                 const std::vector<PackHeader>& packs,
                                                 const TileIndex& index);

// The regions all of whose tiles are present, ascending.
std::vector<RegionId> HeldRegions(const std::vector<std::vector<uint32_t>>& tiles_by_region,
                                  const PresentTiles& present);

// Of a directory that holds a part of a model (files.present): FailedPrecondition unless every tile of
// `regions` is there. The message counts what is missing and says what to do.
absl::Status CheckRegionsPresent(const ModelFiles& files, const std::vector<PackHeader>& packs,
                                 const TileIndex& index, std::span<const RegionId> regions);

// Why such a directory is no whole model; names the regions that it holds, if the tables can be read.
absl::Status PartOfModel(const ModelFiles& files);

}  // namespace omni
