// Which experts of a model were opened: all of them, or those of some regions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/base/ids.h"
#include "store/format/model_files.h"
#include "store/format/tile_index.h"

namespace omni {

class OpenedRegions {
 public:
  // None given: all. InvalidArgument: the model has no such region. `files` outlives this.
  static absl::StatusOr<OpenedRegions> Make(const ModelFiles& files, std::span<const RegionId> regions);

  bool all() const { return regions_.empty(); }
  // Of an expert that the model has.
  bool Has(ExpertId expert) const { return opened_[expert.index()]; }
  // Why an expert is not served: the model has none such, or its region was not opened.
  absl::Status Refusal(LayerId layer, ExpertId expert) const;
  // By tile of the index: whether an opened expert is made of it.
  std::vector<bool> TilesOf(const TileIndex& index) const;

 private:
  OpenedRegions(const ModelFiles& files, std::span<const RegionId> regions);

  const ModelFiles* files_;
  std::vector<RegionId> regions_;
  std::vector<bool> opened_;  // by expert
};

}  // namespace omni
