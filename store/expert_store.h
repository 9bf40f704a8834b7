// All experts of a model, resident: pack files in memory and, per expert and layer, pointers to its tiles.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <absl/container/flat_hash_map.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "store/files.h"
#include "store/manifest.h"
#include "store/tile.h"
#include "store/tile_table.h"

namespace omni {

// Filled by one thread, then only read: reading is safe from any number of threads.
class ExpertStore {
 public:
  explicit ExpertStore(const ModelConfig& config);

  // Reads the pack files that the manifest lists and every table of the delta database of the model in `dir`.
  // Each tile is checked against its checksum, hash, codes and scales before anything points to it; errors
  // name file, tile, expert and layer.
  absl::Status Load(const std::string& dir, const Manifest& manifest);

  // The tiles of an expert of an expert layer; null for another layer or expert.
  const uint8_t* const* Tiles(LayerId layer, ExpertId expert) const;
  // Beside Tiles(): one number per tile, equal exactly where contents are equal, below unique().
  const uint32_t* Contents(LayerId layer, ExpertId expert) const;

  int64_t tiles_per_expert() const { return tiles_; }
  int64_t unique() const { return static_cast<int64_t>(content_.size()); }

 private:
  struct Pack {
    std::string path;
    PackHeader header;
    AlignedBuffer bytes;
    std::vector<uint32_t> content;  // by slot; kUnchecked until a table refers to it
    std::vector<TileRef> ref;       // by slot: the reference it was checked against
  };
  struct Site {
    LayerId layer;
    ExpertId expert;
    int64_t tile;
  };
  static constexpr uint32_t kUnchecked = UINT32_MAX;

  absl::Status LoadPacks(const std::string& dir, const Manifest& manifest);
  absl::Status LoadTables(const std::string& dir, const Manifest& manifest);
  absl::Status CheckPacks(const Manifest& manifest) const;
  absl::Status AddTable(std::string_view key, std::string_view value);
  absl::Status SetStored(const Site& site, const TileRef& ref);
  absl::Status SetInline(const Site& site, const TileChange& change, const uint8_t* base);
  absl::Status CheckContent(const std::string& path, const Site& site, const TileRef& ref,
                            const uint8_t* tile) const;
  uint32_t ContentOf(const Hash128& hash, const uint8_t* tile);
  absl::StatusOr<uint8_t*> NewTile();
  int64_t Index(LayerId layer,
                ExpertId expert) const;  // of the expert's first tile in pointers_; -1 for none

  ModelConfig config_;
  TileLayout layout_;
  int64_t tiles_;
  std::vector<int32_t> expert_layer_;  // layer -> its number among the expert layers, -1 for attention
  std::string deltas_path_;
  std::vector<Pack> packs_;
  std::vector<AlignedBuffer> derived_;  // chunks of tiles made from scattered deltas
  int64_t derived_used_ = 0;            // tiles in the last chunk
  std::vector<const uint8_t*> pointers_;
  std::vector<uint32_t> contents_;
  struct Content {
    uint32_t number;
    const uint8_t* tile;
  };
  absl::flat_hash_map<Hash128, Content> content_;
};

}  // namespace omni
