#include "store/model/resident_model.h"

#include <utility>

#include <absl/strings/str_cat.h>

#include "store/format/model_stats.h"

namespace omni {

absl::StatusOr<std::unique_ptr<ResidentModel>> ResidentModel::Load(const std::string& path) {
  absl::StatusOr<ModelFiles> files = ReadModelFiles(path);
  if (!files.ok()) return files.status();
  if (absl::Status s = CheckDeltaFiles(*files); !s.ok()) return s;
  absl::StatusOr<SharedWeights> shared = SharedWeights::Load(*files);
  if (!shared.ok()) return shared.status();
  auto experts = std::make_shared<ExpertStore>(files->manifest.config);
  if (absl::Status s = experts->Load(*files); !s.ok()) return s;
  return std::unique_ptr<ResidentModel>(
      new ResidentModel(*std::move(files), *std::move(shared), std::move(experts)));
}

absl::StatusOr<ExpertTiles> ResidentModel::Acquire(LayerId layer, ExpertId expert) {
  const uint8_t* const* tiles = experts_->Tiles(layer, expert);
  if (tiles == nullptr) return NoSuchExpert(files_, layer, expert);
  return ExpertTiles{{tiles, static_cast<size_t>(experts_->tiles_per_expert())}, experts_};
}

ModelStats ResidentModel::Stats() const { return CountStats(files_, experts_->contents()); }

absl::Status NoSuchExpert(const ModelFiles& files, LayerId layer, ExpertId expert) {
  const ModelConfig& config = files.manifest.config;
  return absl::InvalidArgumentError(absl::StrCat(files.dir, ": there is no expert ", expert.value,
                                                 " in layer ", layer.value, " (", config.num_experts(),
                                                 " experts, ", config.layers, " layers)"));
}

}  // namespace omni
