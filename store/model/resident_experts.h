// The experts of a model that is kept whole.
#pragma once

#include <memory>
#include <utility>

#include <absl/status/statusor.h>

#include "engine/model/expert_source.h"
#include "store/format/model_files.h"
#include "store/model/expert_store.h"
#include "store/model/opened_regions.h"

namespace omni {

// Acquire takes no lock, and what it returns outlives this.
class ResidentExperts final : public ExpertSource {
 public:
  // `opened` is all of the model. `files` outlives this. Errors as ExpertStore::Load's.
  static absl::StatusOr<std::unique_ptr<ResidentExperts>> Load(const ModelFiles& files,
                                                               const OpenedRegions& opened);

  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override;
  const TileContents& contents() const { return store_->contents(); }

 private:
  ResidentExperts(OpenedRegions opened, std::shared_ptr<const ExpertStore> store)
      : opened_(std::move(opened)), store_(std::move(store)) {}

  OpenedRegions opened_;
  std::shared_ptr<const ExpertStore> store_;
};

}  // namespace omni
