// Walking the tile tables of a model: which tiles every expert of every layer is made of, in key order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "engine/model/config.h"
#include "store/format/delta_db.h"
#include "store/format/model_files.h"
#include "store/format/tile_table.h"

namespace omni {

// Numbers the tables of a model in key order: one for each expert of each expert layer.
class TableNumbers {
 public:
  explicit TableNumbers(const ModelConfig& config);
  int64_t tables() const { return expert_layers() * experts_; }
  int64_t experts() const { return experts_; }           // of a layer
  int64_t tiles() const { return tiles_; }               // of an expert
  int64_t Number(LayerId layer, ExpertId expert) const;  // -1 for another layer or expert
  LayerId Layer(int64_t table) const { return layers_[static_cast<size_t>(table / experts_)]; }
  ExpertId Expert(int64_t table) const { return ExpertId(static_cast<int32_t>(table % experts_)); }
  // "tile 3 of expert 7, layer 2"
  std::string Name(int64_t table, int64_t tile) const;

 private:
  int64_t expert_layers() const { return static_cast<int64_t>(layers_.size()); }

  int64_t experts_, tiles_;
  std::vector<LayerId> layers_;    // the expert layers
  std::vector<int32_t> place_of_;  // layer -> its place among them, -1 for attention
};

// Receives the tables one after another: for a whole one Stored() for every tile; for a delta Inherit(), then
// Stored() or Scattered() for every change. An error ends the walk.
class TableVisitor {
 public:
  virtual ~TableVisitor() = default;
  // `table` begins as a copy of its region's keyframe, which came before.
  virtual absl::Status Inherit(int64_t table, int64_t keyframe) = 0;
  virtual absl::Status Stored(int64_t table, int64_t tile, const TileRef& ref) = 0;
  // The keyframe's tile of that number, altered.
  virtual absl::Status Scattered(int64_t table, int64_t keyframe, const TileChange& change) = 0;
  // A table that cannot be read, or a database that is not the one model.json describes. OK: go on with the
  // next.
  virtual absl::Status Bad(const absl::Status& error) { return error; }
};

// model.json states as many keys as its config makes. Nothing of a size that follows from the config may be
// allocated before.
absl::Status CheckTableCount(const ModelFiles& files, const TableNumbers& numbers);

absl::Status ReadTables(const ModelFiles& files, const DeltaDb& db, const TableNumbers& numbers,
                        TableVisitor& visitor);

// Where `ref` points to, as the number of a tile in its pack; the error says what is wrong, without a place.
// `packs` are the headers by number.
absl::StatusOr<int64_t> FindTile(const ModelFiles& files, const std::vector<PackHeader>& packs,
                                 const TileRef& ref);

// Tile number `tile` of the pack file `path`, which no table refers to.
absl::Status UnusedTile(const std::string& path, int64_t tile);

}  // namespace omni
