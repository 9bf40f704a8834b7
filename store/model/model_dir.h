// A packed model on disk (docs/formats.md), opened read-only. The directory is never written by being used.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/model/expert_source.h"
#include "engine/model/weights.h"
#include "engine/text/tokenizer.h"
#include "store/cache/tile_cache.h"
#include "store/format/model_stats.h"

namespace omni {

struct MemoryPlan;

struct OpenOptions {
  // What the process may take of memory, everything included. Experts that do not fit stay on disk and are
  // read when they are needed: less memory means less speed and never another result. 0: the whole model is
  // kept resident.
  int64_t ram_bytes = 0;
  // If not 0, what the cache of experts takes, whatever ram_bytes would leave for it. For measurements.
  int64_t cache_bytes = 0;
  int64_t sessions = 1;    // states of so many sessions are planned for
  TileCacheOptions cache;  // of experts that are streamed; `slots` is filled in
  bool streamed() const { return ram_bytes > 0 || cache_bytes > 0; }
};

// A model open for decoding. Thread-safe.
class ModelDir : public ExpertSource {
 public:
  // Resident: reads everything, verifies every checksum, and keeps all of it in memory; then Acquire takes no
  // lock, and what it returns outlives the ModelDir. Streamed: reads and verifies all but the experts' tiles,
  // each of which is verified whenever it is read; what Acquire returns must not outlive the ModelDir. Errors
  // name the file and what to do.
  static absl::StatusOr<std::unique_ptr<ModelDir>> Open(const std::string& path,
                                                        const OpenOptions& options = {});

  // About what a resident model takes of memory: from the manifests alone.
  static absl::StatusOr<int64_t> ResidentBytes(const std::string& path);

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

}  // namespace omni
