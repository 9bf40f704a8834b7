// The experts of a model that is kept whole.
#pragma once

#include <memory>
#include <utility>

#include <absl/status/statusor.h>

#include "engine/model/expert_source.h"
#include "store/format/model_files.h"
#include "store/model/expert_store.h"

namespace omni {

// Acquire takes no lock, and what it returns outlives this.
class ResidentExperts final : public ExpertSource {
 public:
  // `files` outlives this. Errors as ExpertStore::Load's.
  static absl::StatusOr<std::unique_ptr<ResidentExperts>> Load(const ModelFiles& files);

  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override;
  const TileContents& contents() const { return store_->contents(); }

 private:
  ResidentExperts(const ModelFiles& files, std::shared_ptr<const ExpertStore> store)
      : files_(files), store_(std::move(store)) {}

  const ModelFiles& files_;
  std::shared_ptr<const ExpertStore> store_;
};

// "PATH: there is no expert E in layer L (...)"
absl::Status NoSuchExpert(const ModelFiles& files, LayerId layer, ExpertId expert);

}  // namespace omni
