#include "store/model/opened_regions.h"

#include <string>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

namespace omni {

absl::StatusOr<OpenedRegions> OpenedRegions::Make(const ModelFiles& files,
                                                  std::span<const RegionId> regions) {
  const int64_t all = files.manifest.config.num_regions();
  for (const RegionId region : regions) {
    if (region.value >= 0 && region.value < all) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(files.dir, ": there is no region ", region.value, "; the model has ", all, ", from 0"));
  }
  return OpenedRegions(files, regions);
}

OpenedRegions::OpenedRegions(const ModelFiles& files, std::span<const RegionId> regions)
    : files_(&files), regions_(regions.begin(), regions.end()) {
  const ModelConfig& config = files.manifest.config;
  opened_.assign(static_cast<size_t>(config.num_experts()), regions.empty());
  for (const RegionId region : regions) {
    for (int64_t i = 0; i < config.experts_per_region(); ++i)
      opened_[config.ExpertOf(region, i).index()] = true;
  }
}

absl::Status OpenedRegions::Refusal(LayerId layer, ExpertId expert) const {
  const ModelConfig& config = files_->manifest.config;
  if (TableNumbers(config).Number(layer, expert) < 0) {
    return absl::InvalidArgumentError(absl::StrCat(files_->dir, ": there is no expert ", expert.value,
                                                   " in layer ", layer.value, " (", config.num_experts(),
                                                   " experts, ", config.layers, " layers)"));
  }
  const auto number = [](std::string* out, RegionId region) { absl::StrAppend(out, region.value); };
  return absl::FailedPreconditionError(
      absl::StrCat(files_->dir, ": expert ", expert.value, " is of region ", config.RegionOf(expert).value,
                   ", which was not opened here; opened: ", absl::StrJoin(regions_, ", ", number)));
}

std::vector<bool> OpenedRegions::TilesOf(const TileIndex& index) const {
  std::vector<bool> needed(static_cast<size_t>(index.tiles()));
  const TableNumbers& numbers = index.numbers();
  for (int64_t table = 0; table < numbers.tables(); ++table) {
    if (!Has(numbers.Expert(table))) continue;
    for (int64_t t = 0; t < numbers.tiles(); ++t) needed[index.Of(table)[t]] = true;
  }
  return needed;
}

}  // namespace omni
