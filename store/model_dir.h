// A packed model on disk, opened read-only. The directory is never written by being used.
#pragma once

#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "engine/tokenizer.h"
#include "engine/weights.h"

namespace omni {

// What `omni inspect` prints; every figure is counted from the bytes on disk.
struct ModelStats {
  ParameterCount parameters;         // nominal, from the config
  int64_t unique_parameters = 0;     // identical tiles counted once
  int64_t shared_bytes = 0, tile_bytes = 0, delta_db_bytes = 0, total_bytes = 0;
  int64_t tiles = 0, unique_tiles = 0;
  // For each pair of lattice neighbours (one hop, wrapped) averaged over layers: the share of tiles that differ.
  double neighbour_delta_same_region = 0, neighbour_delta_other_region = 0;
  double keyframe_delta = 0;  // mean share of tiles in which an expert differs from its region's keyframe
};

class ModelDir : public ExpertProvider {
 public:
  // Reads model.json, the shared weights, the tokenizer and the tile tables, verifies every checksum, and keeps all of
  // it resident. Errors name the file and what to do.
  static absl::StatusOr<std::unique_ptr<ModelDir>> Open(const std::string& path);

  virtual const ModelWeights& weights() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  virtual std::string model_hash() const = 0;  // hex; equal for equal models, whatever machine packed them
  virtual ModelStats Stats() const = 0;
};

struct PackOptions {
  int64_t tile_alignment = 0;  // 0: 4096 if a tile's payload is >= 64 KiB, else 64
  bool whole = false;          // store every expert whole (no sharing), for comparison
};
// Quantises a checkpoint and writes `dir` atomically (a sibling temporary directory, fsync, rename). Refuses an existing
// non-empty dir. One writer at a time (a lock file beside it).
absl::Status PackModel(const std::string& checkpoint, const std::string& dir, const PackOptions& options);

}  // namespace omni
