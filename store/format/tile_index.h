// Where every tile of every expert lies: what a model whose experts are not all in memory keeps of its
// tables.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include "store/format/delta_db.h"
#include "store/format/model_files.h"
#include "store/format/table_reader.h"
#include "store/format/tile_users.h"

namespace omni {

// Tiles are numbered by where they lie, not by what they hold: a tile that is stored twice has two numbers.
// Filled by one thread, then only read.
class TileIndex : private TableVisitor {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  struct Tile {
    TileRef ref;            // hash and checksum of the content; for a stored tile also its place
    uint32_t base = kNone;  // a tile held as scattered trits: the stored tile that they change ...
    uint32_t table = 0;     // ... the table whose entry holds them ...
    uint32_t number = 0;    // ... and the entry's tile number
  };

  // `files` and `packs`, the headers of its pack files, outlive the index.
  static absl::StatusOr<std::unique_ptr<TileIndex>> Read(const ModelFiles& files, const DeltaDb& db,
                                                         const std::vector<PackHeader>& packs);

  const TableNumbers& numbers() const { return numbers_; }
  int64_t tiles() const { return static_cast<int64_t>(tiles_.size()); }
  const Tile& tile(uint32_t tile) const { return tiles_[tile]; }
  // The tiles of an expert of a layer, in neuron order: numbers().tiles() of them.
  const uint32_t* Of(int64_t table) const { return &tile_of_[static_cast<size_t>(table * numbers_.tiles())]; }
  // The stored tile that must be read to have `tile`: itself, or what its trits change.
  const Tile& Stored(uint32_t tile) const {
    const Tile& t = tiles_[tile];
    return t.base == kNone ? t : tiles_[t.base];
  }
  TileUsers Users() const;
  int64_t bytes() const;  // of memory

 private:
  TileIndex(const ModelFiles& files, const std::vector<PackHeader>& packs);
  absl::Status Inherit(int64_t table, int64_t keyframe) override;
  absl::Status Stored(int64_t table, int64_t tile, const TileRef& ref) override;
  absl::Status Scattered(int64_t table, int64_t keyframe, const TileChange& change) override;
  absl::Status Bad(int64_t table, int64_t tile, absl::string_view what) const;
  uint32_t& At(int64_t table, int64_t tile) {
    return tile_of_[static_cast<size_t>(table * numbers_.tiles() + tile)];
  }

  const ModelFiles& files_;
  const std::vector<PackHeader>& packs_;
  TableNumbers numbers_;
  std::vector<Tile> tiles_;
  std::vector<uint32_t> tile_of_;
  std::vector<std::vector<uint32_t>> number_at_;  // by pack and place in it; only while reading
};

}  // namespace omni
