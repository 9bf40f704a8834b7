// Making model directories: from a training checkpoint, or from another model directory.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include <absl/status/status.h>

namespace omni {

struct PackOptions {
  // A power of two from 64 to 2^20; 0 chooses 4096 if a tile's payload is 64 KiB or more, else 64.
  int64_t tile_alignment = 0;
  bool whole = false;                         // store every expert whole (no sharing), for comparison
  int64_t max_pack_bytes = int64_t{1} << 30;  // a pack file grows no larger, but holds at least one tile
  // If not empty, names what is written so well that a run which finds a stopped one's files under the same
  // key may go on with them; what a failed run wrote then stays beside DIR.
  std::string resume_key = {};
  int64_t* kept_files = nullptr;  // if not null, receives how many pack files of such a run were kept
  // Called after every region of a layer with the share of all experts that is written. Empty: not called.
  std::function<void(double share)> progress = nullptr;
};

// Quantises a checkpoint and writes `dir` atomically (a sibling temporary directory, fsync, rename). Refuses
// an existing non-empty dir. One writer at a time (a lock file beside it). On an error nothing is left
// behind, unless only the parent directory's last fsync failed: then `dir` is there and whole.
absl::Status PackModel(const std::string& checkpoint, const std::string& dir, const PackOptions& options);

// Writes the packed model `dir` again as `out`, with other options or the same; then all but RocksDB's own
// bytes are equal. Its tiles are read and checked one at a time, so that models larger than memory are no
// exception.
absl::Status RepackModel(const std::string& dir, const std::string& out, const PackOptions& options);

}  // namespace omni
