// A packed model on disk (docs/formats.md), opened read-only. The directory is never written by being used.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/tokenizer.h"
#include "engine/weights.h"
#include "store/tile_cache.h"

namespace omni {

// What `omni inspect` prints; every figure is counted from the bytes on disk.
struct ModelStats {
  ParameterCount parameters;      // nominal, from the config
  int64_t unique_parameters = 0;  // identical tiles counted once
  int64_t shared_bytes = 0, tile_bytes = 0, delta_db_bytes = 0, total_bytes = 0;
  int64_t tiles = 0, unique_tiles = 0;  // of all experts, by content
  // For each pair of lattice neighbours (one hop, wrapped) averaged over layers: the share of tiles that
  // differ.
  double neighbour_delta_same_region = 0, neighbour_delta_other_region = 0;
  double keyframe_delta = 0;  // mean share of tiles in which an expert differs from its region's keyframe
  // What the packer chose: tiles in the pack files; experts of a layer listed whole or as a delta; and tiles
  // held as scattered trits, with their coded bytes.
  int64_t stored_tiles = 0, whole_tables = 0, delta_tables = 0, inline_tiles = 0, inline_bytes = 0;
  // Regions of all expert layers; bytes of the different tiles of their keyframes; bytes of the stored tiles
  // and scattered trits that the other experts need besides.
  int64_t regions = 0, keyframe_bytes = 0, delta_bytes = 0;
};

// What can be said of a model without loading it.
struct ModelSummary {
  ModelConfig config;
  std::string model_hash;
  ModelStats stats;
};

struct MemoryPlan;

struct OpenOptions {
  // What the process may take of memory, everything included. Experts that do not fit stay on disk and are read when
  // they are needed: less memory means less speed and never another result. 0: the whole model is kept resident.
  int64_t ram_bytes = 0;
  // If not 0, what the cache of experts takes, whatever ram_bytes would leave for it. For measurements.
  int64_t cache_bytes = 0;
  int64_t sessions = 1;    // states of so many sessions are planned for
  TileCacheOptions cache;  // of experts that are streamed; `slots` is filled in
  bool streamed() const { return ram_bytes > 0 || cache_bytes > 0; }
};

// A model open for decoding. Thread-safe.
class ModelDir : public ExpertProvider {
 public:
  // Resident: reads everything, verifies every checksum, and keeps all of it in memory; then Acquire takes no lock,
  // and what it returns outlives the ModelDir. Streamed: reads and verifies all but the experts' tiles, each of which
  // is verified whenever it is read; what Acquire returns must not outlive the ModelDir. Errors name the file and what
  // to do.
  static absl::StatusOr<std::unique_ptr<ModelDir>> Open(const std::string& path,
                                                        const OpenOptions& options = {});

  // About what a resident model takes of memory: from the manifests alone.
  static absl::StatusOr<int64_t> ResidentBytes(const std::string& path);

  // Reads the manifests, the tile tables and the pack files' headers; of the other files only the sizes are
  // checked (store/verify.h checks their bytes). The figures are those of Stats().
  static absl::StatusOr<ModelSummary> Summarize(const std::string& path);

  virtual const ModelWeights& weights() const = 0;  // valid as long as the ModelDir
  virtual const Tokenizer& tokenizer() const = 0;
  // 32 hex digits over config, shared weights, tokenizer, tiles and tile tables: equal for one checkpoint
  // packed with equal options, whatever machine packed it.
  virtual std::string model_hash() const = 0;
  virtual ModelStats Stats() const = 0;

  // Of a streamed model; null, nothing, empty or without effect if the model is resident.
  virtual const MemoryPlan* plan() const { return nullptr; }
  virtual std::optional<CacheStats> cache_stats() const { return std::nullopt; }
  virtual std::string streaming() const {
    return {};
  }  // how tiles are read and chosen: "io_uring, ..., torus"
  virtual std::span<const uint8_t> cache_memory() const {
    return {};
  }                                // the part of the cache that was ever filled
  virtual void ForgetExperts() {}  // gives up all tiles that nobody uses
};

struct PackOptions {
  // A power of two from 64 to 2^20; 0 chooses 4096 if a tile's payload is 64 KiB or more, else 64.
  int64_t tile_alignment = 0;
  bool whole = false;                         // store every expert whole (no sharing), for comparison
  int64_t max_pack_bytes = int64_t{1} << 30;  // a pack file grows no larger, but holds at least one tile
  // Called before every fsync and rename with a description of it; an error stops the writer. For crash tests.
  // Empty: nothing is called.
  std::function<absl::Status(const std::string& step)> step_hook = nullptr;
  // If not empty, names what is written so well that a run which finds a stopped one's files under the same key may go on
  // with them; what a failed run wrote then stays beside DIR.
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
// bytes are equal.
absl::Status RepackModel(const std::string& dir, const std::string& out, const PackOptions& options);

}  // namespace omni
