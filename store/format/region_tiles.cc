#include "store/format/region_tiles.h"

#include <algorithm>
#include <memory>
#include <string>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "store/format/delta_db.h"

namespace omni {
namespace {

constexpr char kFillCure[] = "let `omni node --join HOST:PORT` fill it, or take a directory that has all";

absl::Status OtherPacks(const ModelFiles& files) {
  return absl::DataLossError(absl::StrCat(
      files.PathOf(kPresentFile),
      ": counts other tiles than the pack files; remove the directory and let it be filled again"));
}

std::string Numbers(std::span<const RegionId> regions) {
  return absl::StrJoin(regions, ", ",
                       [](std::string* out, RegionId region) { absl::StrAppend(out, region.value); });
}

absl::StatusOr<std::vector<RegionId>> ReadHeldRegions(const ModelFiles& files) {
  absl::StatusOr<std::vector<PackHeader>> packs = ReadPackHeaders(files);
  if (!packs.ok()) return packs.status();
  if (!files.present->SameModel(PresentTiles::ForPacks(*packs))) return OtherPacks(files);
  if (absl::Status s = CheckDeltaFiles(files); !s.ok()) return s;
  absl::StatusOr<DeltaDb> db = DeltaDb::Open(files.PathOf(kDeltasFolder));
  if (!db.ok()) return db.status();
  absl::StatusOr<std::unique_ptr<TileIndex>> index = TileIndex::Read(files, *db, *packs);
  if (!index.ok()) return index.status();
  return HeldRegions(TilesByRegion(files.manifest.config, *files.present, *packs, **index), *files.present);
}

}  // namespace

std::vector<std::vector<uint32_t>> TilesByRegion(const ModelConfig& config, const PresentTiles& numbers,
                                                 const std::vector<PackHeader>& packs,
                                                 const TileIndex& index) {
  std::vector<std::vector<uint32_t>> tiles(static_cast<size_t>(config.num_regions()));
  const TableNumbers& tables = index.numbers();
  // Each tile is listed once for every region: which region listed it last is remembered.
  std::vector<std::vector<ExpertId>> experts(tiles.size());
  for (int32_t e = 0; e < config.num_experts(); ++e)
    experts[config.RegionOf(ExpertId(e)).index()].push_back(ExpertId(e));
  std::vector<int32_t> listed_by(static_cast<size_t>(numbers.tiles()), -1);
  const int64_t layers = tables.experts() > 0 ? tables.tables() / tables.experts() : 0;
  for (size_t region = 0; region < tiles.size(); ++region) {
    for (int64_t place = 0; place < layers; ++place) {
      for (const ExpertId expert : experts[region]) {
        const uint32_t* const of = index.Of(place * tables.experts() + expert.value);
        for (int64_t t = 0; t < tables.tiles(); ++t) {
          const TileRef& ref = index.Stored(of[t]).ref;
          const auto number = static_cast<uint32_t>(
              numbers.Number({ref.pack, static_cast<uint32_t>(packs[ref.pack].TileAt(ref.offset))}));
          if (listed_by[number] == static_cast<int32_t>(region)) continue;
          listed_by[number] = static_cast<int32_t>(region);
          tiles[region].push_back(number);
        }
      }
    }
    std::sort(tiles[region].begin(), tiles[region].end());
  }
  return tiles;
}

std::vector<RegionId> HeldRegions(const std::vector<std::vector<uint32_t>>& tiles_by_region,
                                  const PresentTiles& present) {
  std::vector<RegionId> held;
  for (size_t region = 0; region < tiles_by_region.size(); ++region) {
    const std::vector<uint32_t>& tiles = tiles_by_region[region];
    if (std::all_of(tiles.begin(), tiles.end(), [&](uint32_t tile) { return present.Has(tile); }))
      held.push_back(RegionId(static_cast<int32_t>(region)));
  }
  return held;
}

absl::Status CheckRegionsPresent(const ModelFiles& files, const std::vector<PackHeader>& packs,
                                 const TileIndex& index, std::span<const RegionId> regions) {
  const PresentTiles& present = *files.present;
  if (!present.SameModel(PresentTiles::ForPacks(packs))) return OtherPacks(files);
  const auto tiles = TilesByRegion(files.manifest.config, present, packs, index);
  for (const RegionId region : regions) {
    const std::vector<uint32_t>& needed = tiles[region.index()];
    const auto missing =
        std::count_if(needed.begin(), needed.end(), [&](uint32_t tile) { return !present.Has(tile); });
    if (missing == 0) continue;
    return absl::FailedPreconditionError(
        absl::StrCat(files.dir, ": holds a part of the model, in which ", missing, " of ", needed.size(),
                     " tiles of region ", region.value, " are missing; it has all of the regions [",
                     Numbers(HeldRegions(tiles, present)), "]: open those, ", kFillCure, " of that region"));
  }
  return absl::OkStatus();
}

absl::Status PartOfModel(const ModelFiles& files) {
  std::string text = absl::StrCat(files.dir, ": holds a part of the model, ", files.present->count(), " of ",
                                  files.present->tiles(), " tiles");
  if (const auto held = ReadHeldRegions(files); held.ok())
    absl::StrAppend(&text, ", and all of the regions [", Numbers(*held), "]");
  return absl::FailedPreconditionError(
      absl::StrCat(text, "; open those regions alone, ", kFillCure, " of the model"));
}

}  // namespace omni
