// Whether the tile in a slot is what it should be.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/strings/string_view.h>

#include "store/format/delta_db.h"
#include "store/format/model_files.h"
#include "store/format/tile_index.h"

namespace omni {

// Thread-safe: by slot, a read and what follows it is ordered by whoever hands the slot on.
class TileChecks {
 public:
  // All references outlive the checks.
  TileChecks(const ModelFiles& files, const TileIndex& index, const DeltaDb& db, int64_t slots);

  void Forget(uint32_t slot) {
    checked_[slot].store(false, std::memory_order_relaxed);
  }  // another tile comes
  bool checked(uint32_t slot) const { return checked_[slot].load(std::memory_order_acquire); }

  // What was read for tile `content` is in `slot` at `bytes`: of one that is held as scattered trits, the
  // tile which they change, and they are applied here. Any other is left to Check.
  absl::Status Complete(uint32_t content, uint32_t slot, uint8_t* bytes);
  // The bytes against checksum and hash; bytes with their checksum that were seen to hold only what a model
  // may are not looked through again.
  absl::Status Check(uint32_t content, uint32_t slot, const uint8_t* bytes);

  // Says on the log that a tile could not be read or is not what it should be; names the first of the experts
  // that have it.
  void LogFailed(uint32_t content, const absl::Status& status) const;
  // "PATH: tile 3 of expert 7, layer 2 MESSAGE": the pack file in which the table's tile lies.
  std::string Located(int64_t table, int64_t tile, absl::string_view message) const;

 private:
  absl::Status Derive(uint32_t content, uint8_t* tile) const;

  const ModelFiles& files_;
  const TileIndex& index_;
  const DeltaDb& db_;
  const TileLayout layout_;
  // By slot: its tile is what it should be. By tile of the index: such bytes have been seen to be sound.
  std::vector<std::atomic<bool>> checked_, sound_;
};

}  // namespace omni
