#include "store/format/tile_index.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

namespace omni {

TileIndex::TileIndex(const ModelFiles& files, const std::vector<PackHeader>& packs)
    : files_(files), packs_(packs), numbers_(files.manifest.config) {}

absl::StatusOr<std::unique_ptr<TileIndex>> TileIndex::Read(const ModelFiles& files, const DeltaDb& db,
                                                           const std::vector<PackHeader>& packs) {
  std::unique_ptr<TileIndex> index(new TileIndex(files, packs));
  if (absl::Status s = CheckTableCount(files, index->numbers_); !s.ok()) return s;
  int64_t stored = 0;
  for (const PackHeader& pack : packs) {
    index->number_at_.emplace_back(static_cast<size_t>(pack.count), kNone);
    stored += pack.count;
  }
  if (stored >= kNone) {
    return absl::InvalidArgumentError(
        absl::StrCat(files.dir, ": ", stored, " tiles, at most ", kNone - 1,
                     " can be streamed; pack the model again with larger regions"));
  }
  index->tiles_.reserve(static_cast<size_t>(stored));
  index->tile_of_.assign(static_cast<size_t>(index->numbers_.tables() * index->numbers_.tiles()), kNone);
  if (absl::Status s = ReadTables(files, db, index->numbers_, *index); !s.ok()) return s;
  index->number_at_ = {};
  index->tiles_.shrink_to_fit();
  return index;
}

absl::Status TileIndex::Bad(int64_t table, int64_t tile, absl::string_view what) const {
  return absl::DataLossError(
      absl::StrCat(files_.PathOf(kDeltasFolder), ": ", numbers_.Name(table, tile), " ", what, kDamagedCure));
}

absl::Status TileIndex::Inherit(int64_t table, int64_t keyframe) {
  std::copy_n(&At(keyframe, 0), numbers_.tiles(), &At(table, 0));
  return absl::OkStatus();
}

absl::Status TileIndex::Stored(int64_t table, int64_t tile, const TileRef& ref) {
  absl::StatusOr<int64_t> found = FindTile(files_, packs_, ref);
  if (!found.ok()) return Bad(table, tile, found.status().message());
  uint32_t& number = number_at_[ref.pack][static_cast<size_t>(*found)];
  if (number == kNone) {
    number = static_cast<uint32_t>(tiles_.size());
    tiles_.push_back({ref, kNone, 0, 0});
  } else if (!(tiles_[number].ref == ref)) {
    return Bad(table, tile, "has another checksum than elsewhere");
  }
  At(table, tile) = number;
  return absl::OkStatus();
}

absl::Status TileIndex::Scattered(int64_t table, int64_t keyframe, const TileChange& change) {
  const uint32_t base = At(keyframe, change.tile);
  if (base == kNone || tiles_[base].base != kNone)
    return Bad(table, change.tile, "changes a tile that is not stored");
  if (tiles_.size() >= kNone - 1) return Bad(table, change.tile, "is one tile more than can be streamed");
  At(table, change.tile) = static_cast<uint32_t>(tiles_.size());
  tiles_.push_back({change.ref, base, static_cast<uint32_t>(table), change.tile});
  return absl::OkStatus();
}

TileUsers TileIndex::Users() const {
  TileUsers users;
  users.experts = numbers_.tables() > 0 ? files_.manifest.config.num_experts() : 0;
  users.first.assign(tiles_.size() + 1, 0);
  for (uint32_t tile : tile_of_) ++users.first[tile + 1];
  for (size_t i = 1; i < users.first.size(); ++i) users.first[i] += users.first[i - 1];
  users.users.resize(tile_of_.size());
  std::vector<uint32_t> next(users.first.begin(), users.first.end() - 1);
  for (size_t i = 0; i < tile_of_.size(); ++i) {
    users.users[next[tile_of_[i]]++] = static_cast<uint32_t>(i / static_cast<size_t>(numbers_.tiles()));
  }
  return users;
}

int64_t TileIndex::bytes() const {
  return static_cast<int64_t>(tiles_.capacity() * sizeof(Tile) + tile_of_.capacity() * sizeof(uint32_t));
}

}  // namespace omni
