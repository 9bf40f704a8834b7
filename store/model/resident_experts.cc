#include "store/model/resident_experts.h"

namespace omni {

absl::StatusOr<std::unique_ptr<ResidentExperts>> ResidentExperts::Load(const ModelFiles& files,
                                                                       const OpenedRegions& opened) {
  auto store = std::make_shared<ExpertStore>(files.manifest.config);
  if (absl::Status s = store->Load(files); !s.ok()) return s;
  return std::unique_ptr<ResidentExperts>(new ResidentExperts(opened, std::move(store)));
}

absl::StatusOr<ExpertTiles> ResidentExperts::Acquire(LayerId layer, ExpertId expert) {
  const uint8_t* const* tiles = store_->Tiles(layer, expert);
  if (tiles == nullptr) return opened_.Refusal(layer, expert);
  return ExpertTiles{{tiles, static_cast<size_t>(store_->tiles_per_expert())}, store_};
}

}  // namespace omni
