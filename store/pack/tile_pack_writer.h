// The pack files of one model, written tile by tile.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include <absl/container/flat_hash_map.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "store/file/files.h"
#include "store/file/stream_writer.h"
#include "store/format/tile.h"

namespace omni {

class TilePackWriter {
 public:
  // `dir` is the model directory being written; packs/ exists in it. A file grows to at most
  // `max_pack_bytes`, but holds at least one tile. Files that an earlier writer of the same tiles left there
  // are kept if they are complete and replaced if not; a finished file survives a power cut, name and all.
  TilePackWriter(std::string dir, int64_t payload, int64_t alignment, int64_t max_pack_bytes);

  // Where a tile of this content lies, if it was added before.
  std::optional<TileRef> Find(const Hash128& hash) const;
  // Stores the tile (payload bytes), whether or not an equal one is stored.
  absl::StatusOr<TileRef> Add(const uint8_t* tile, const Hash128& hash);
  absl::Status Finish();  // completes the last file

  int64_t stored() const { return stored_; }
  int64_t kept_files() const { return kept_files_; }
  // Of every finished file, by its name in the model directory.
  const std::map<std::string, FileDigest>& digests() const { return digests_; }
  int64_t stride() const { return header_.stride; }

 private:
  absl::Status BeginFile();
  absl::Status FinishFile();
  absl::Status Append(const uint8_t* data, int64_t bytes);  // null: zeros

  std::string dir_;
  PackHeader header_;  // count: tiles in the open file
  int64_t tiles_per_pack_;
  std::string full_head_;               // of a file that is full
  std::unique_ptr<StreamWriter> file_;  // either this
  std::optional<FileDigest> kept_;      // or a file that is there already, and what its tiles hash to
  std::optional<StreamHash> kept_hash_;
  int64_t offset_ = 0;  // in the open file
  std::map<std::string, FileDigest> digests_;
  int64_t kept_files_ = 0;
  uint32_t packs_ = 0;  // begun
  int64_t stored_ = 0;
  absl::flat_hash_map<Hash128, TileRef> by_hash_;
};

}  // namespace omni
