#include "store/model/resident_experts.h"

#include <absl/strings/str_cat.h>

namespace omni {

absl::StatusOr<std::unique_ptr<ResidentExperts>> ResidentExperts::Load(const ModelFiles& files) {
  auto store = std::make_shared<ExpertStore>(files.manifest.config);
  if (absl::Status s = store->Load(files); !s.ok()) return s;
  return std::unique_ptr<ResidentExperts>(new ResidentExperts(files, std::move(store)));
}

absl::StatusOr<ExpertTiles> ResidentExperts::Acquire(LayerId layer, ExpertId expert) {
  const uint8_t* const* tiles = store_->Tiles(layer, expert);
  if (tiles == nullptr) return NoSuchExpert(files_, layer, expert);
  return ExpertTiles{{tiles, static_cast<size_t>(store_->tiles_per_expert())}, store_};
}

absl::Status NoSuchExpert(const ModelFiles& files, LayerId layer, ExpertId expert) {
  const ModelConfig& config = files.manifest.config;
  return absl::InvalidArgumentError(absl::StrCat(files.dir, ": there is no expert ", expert.value,
                                                 " in layer ", layer.value, " (", config.num_experts(),
                                                 " experts, ", config.layers, " layers)"));
}

}  // namespace omni
