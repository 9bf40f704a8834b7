// A model directory that may hold only some of the model's tiles, and the one process that changes which.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/base/ids.h"
#include "engine/base/open_file.h"
#include "store/format/model_files.h"
#include "store/format/present_tiles.h"
#include "store/partial/incoming_file.h"

namespace omni {

// Problem: a node serves some regions of a model, which others have whole, from a disk that need not hold all
// of it; it may be killed and lose power at any byte, and its disk may be full or fail.
// Solution: pack files of their full length in which only the tiles that are there were written, at their
// places, the rest being holes; and a record of which those are (docs/formats.md). A tile is checked before
// it is written, and recorded after it was synced: so what the record names is on the disk, and every reader
// checks it again.
//
// A whole model may be opened too: all is present then, and nothing is ever written.
//
// Thread-safe. Other processes may read the directory meanwhile (OpenModel of regions it holds), but not
// those regions that are released.
class PartialModel {
 public:
  // A directory that is a model or a part of one; an empty one needs PartialStart first. FailedPrecondition:
  // another process fills it.
  static absl::StatusOr<std::unique_ptr<PartialModel>> Open(const std::string& dir);

  const ModelFiles& files() const { return files_; }
  const std::string& hash() const { return hash_; }  // of the model
  bool whole() const { return !files_.present.has_value(); }
  int64_t tile_bytes() const { return layout_.payload(); }
  int64_t stored_tiles() const { return numbers_.tiles(); }
  const std::vector<PackHeader>& packs() const { return packs_; }  // of its pack files, by number
  // What a tile must be, and where; null: the model has no such tile.
  const TileRef* Ref(TilePlace tile) const;

  // Whether a tile is there, and will be after a power cut.
  bool Has(TilePlace tile) const;
  // Whether all tiles of a region are.
  bool Holds(RegionId region) const;
  std::vector<RegionId> HeldRegions() const;  // ascending
  int64_t present_tiles() const;
  // Which are not there, of those that the regions need: by place, each once. Tiles that were added and not
  // committed are none of them. InvalidArgument: the model has no such region.
  absl::StatusOr<std::vector<TilePlace>> MissingTiles(std::span<const RegionId> regions) const;

  // Writes a tile that was checked against its checksum and its hash, as read from elsewhere; it counts as
  // present after the next Commit. Nothing happens if it is present. DataLoss: the bytes are not that tile;
  // nothing was written. InvalidArgument: there is no such tile. Else the disk's error: nothing is recorded,
  // and the tile may be added again when the cause is gone.
  absl::Status Add(TilePlace tile, std::string_view bytes);
  // Makes present what was added: best called for many tiles at a time, since it waits for the disk. After an
  // error the tiles that could not be synced are missing as before; the others are recorded by the next
  // Commit.
  absl::Status Commit();

  // Gives back the room of all tiles that none of these regions needs. Nobody may be reading those. What
  // could not be given back now, is when the directory is next opened. InvalidArgument: the model has no such
  // region.
  absl::Status ReleaseAllBut(std::span<const RegionId> regions);

  // Reads a tile that is there, tile_bytes() of it, and checks its checksum. NotFound: it is not there;
  // DataLoss: it is damaged.
  absl::Status Read(TilePlace tile, uint8_t* to) const;

  // Those of shared weights and tokenizer that are not there; whoever only serves experts needs neither.
  std::vector<std::string> MissingFiles() const;
  absl::StatusOr<IncomingFile> BeginFile(const std::string& name);  // one of the missing; not two at a time

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  PartialModel(ModelFiles files, std::vector<PackHeader> packs, FileDescriptor lock);
  absl::Status ReadTables();
  absl::Status CheckRegions(std::span<const RegionId> regions) const;
  absl::StatusOr<int> PackFile(uint32_t pack) const;
  absl::Status Named(TilePlace tile, const absl::Status& status) const;
  int64_t OffsetOf(TilePlace tile) const;
  std::vector<bool> TilesOf(std::span<const RegionId> regions) const;
  absl::Status SyncAdded();
  absl::Status Record(const PresentTiles& present);
  absl::Status PunchAllBut(const std::vector<bool>& kept);

  const ModelFiles files_;
  const std::vector<PackHeader> packs_;
  const TileLayout layout_;
  const std::string hash_;
  const PresentTiles numbers_;  // only its numbering is used
  const FileDescriptor lock_;   // none of a whole model
  std::vector<TileRef> refs_;   // by number
  std::vector<std::vector<uint32_t>> tiles_by_region_;

  mutable std::mutex open_mutex_;
  mutable std::vector<FileDescriptor> pack_files_;  // opened when first needed

  std::mutex commit_mutex_;       // one Commit or ReleaseAllBut at a time
  std::shared_mutex room_mutex_;  // shared by those that add, alone for who punches
  mutable std::mutex state_mutex_;
  PresentTiles present_;          // as recorded
  std::vector<uint32_t> added_;   // written
  std::vector<uint32_t> synced_;  // and synced, but not recorded
};

}  // namespace omni
