// All experts of a model, resident: pack files in memory and, per expert and layer, pointers to its tiles.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "store/file/files.h"
#include "store/format/model_files.h"
#include "store/format/table_reader.h"
#include "store/format/tile.h"
#include "store/format/tile_contents.h"

namespace omni {

// Filled by one thread, then only read: reading is safe from any number of threads.
class ExpertStore : private TableVisitor {
 public:
  explicit ExpertStore(const ModelConfig& config)
      : layout_(config.d), contents_(config), tiles_(contents_.numbers().tiles()) {}

  // Reads the pack files that the manifest lists and every table of the delta database. Each tile is checked
  // against its checksum, hash, codes and scales before anything points to it; errors name file, tile, expert
  // and layer.
  absl::Status Load(const ModelFiles& files);

  // The tiles of an expert of an expert layer; null for another layer or expert.
  const uint8_t* const* Tiles(LayerId layer, ExpertId expert) const;
  const TileContents& contents() const { return contents_; }

  int64_t tiles_per_expert() const { return tiles_; }

 private:
  struct Pack {
    std::string path;
    AlignedBuffer bytes;
    std::vector<uint32_t> content;  // by tile of the file; kUnchecked until a table refers to it
    std::vector<TileRef> ref;       // by tile of the file: the reference it was checked against
  };
  static constexpr uint32_t kUnchecked = UINT32_MAX;

  absl::Status LoadPacks(const ModelFiles& files);
  absl::Status LoadTables(const ModelFiles& files);
  absl::Status CheckPacks(const ModelFiles& files) const;
  absl::Status Inherit(int64_t table, int64_t keyframe) override;
  absl::Status Stored(int64_t table, int64_t tile, const TileRef& ref) override;
  absl::Status Scattered(int64_t table, int64_t keyframe, const TileChange& change) override;
  absl::Status CheckContent(const std::string& path, int64_t table, int64_t tile, const TileRef& ref,
                            const uint8_t* bytes) const;
  uint32_t ContentOf(const Hash128& hash, const uint8_t* tile);
  absl::StatusOr<uint8_t*> NewTile();
  size_t Index(int64_t table, int64_t tile) const { return static_cast<size_t>(table * tiles_ + tile); }

  TileLayout layout_;
  TileContents contents_;
  int64_t tiles_;
  const ModelFiles* files_ = nullptr;  // while loading
  std::string deltas_path_;
  std::vector<PackHeader> headers_;
  std::vector<Pack> packs_;
  std::vector<AlignedBuffer> derived_;  // chunks of tiles made from scattered deltas
  int64_t derived_used_ = 0;            // tiles in the last chunk
  std::vector<const uint8_t*> pointers_;
  std::vector<const uint8_t*> content_tile_;  // by number of the content
};

}  // namespace omni
