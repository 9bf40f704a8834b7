// A packed model (docs/formats.md), opened read-only. Its directory is never written by being used.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/model/expert_source.h"
#include "engine/model/weights.h"
#include "engine/text/tokenizer.h"
#include "store/cache/tile_cache.h"
#include "store/format/model_stats.h"
#include "store/format/tile_reader.h"
#include "store/model/expert_cache.h"
#include "store/plan/memory_plan.h"
#include "store/read/read_queue.h"

namespace omni {

// How a model's experts are kept. A model without experts is kept whole in either case.
enum class Residency {
  kWhole,     // all of them in memory
  kStreamed,  // on disk, those in use in a cache: less memory means less speed and never another result
};

struct OpenOptions {
  Residency residency = Residency::kWhole;
  // What the process may take of memory, everything included; kStreamed wants it, or cache_bytes.
  std::optional<int64_t> ram_bytes;
  // kStreamed: what the cache of experts takes, whatever ram_bytes would leave for it. For measurements.
  std::optional<int64_t> cache_bytes;
  int64_t sessions = 1;  // states of so many sessions are planned for
  // kStreamed within ram_bytes: and of up to so many, where the budget is larger than it must be
  // (SessionsToPlan in store/plan/memory_plan.h).
  int64_t most_sessions = 0;
  // Regions whose experts are served; the others' are neither read nor kept, and asking for one is an error.
  // None given: all.
  std::vector<RegionId> regions;
  // Of a directory that may hold a part of a model and be filled meanwhile (store/partial), kStreamed: opened
  // whatever is there; experts whose tiles are not there yet are refused when they are read.
  bool growing = false;
  bool shared = true;  // false: without shared weights and tokenizer, for a node that serves experts alone
  TileCacheOptions cache;  // kStreamed; `slots` is filled in
  ReadQueueOptions reads;  // of the pack files, kStreamed; `memory` is filled in
};

// A model open for decoding. May be moved: what it gave references to stays in place. Thread-safe.
class Model {
 public:
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  const ModelConfig& config() const;
  bool shared() const;  // OpenOptions::shared, without which there are none of these:
  const ModelWeights& weights() const;
  const Tokenizer& tokenizer() const;
  // If the model is whole, Acquire takes no lock, and what it returns outlives the model. Else what is
  // acquired must not outlive it.
  ExpertSource& experts() const;
  ExpertCache* cache() const;      // what the experts are streamed through; null if the model is whole
  const MemoryPlan* plan() const;  // what it was opened under; null if no budget was given
  // 32 hex digits over config, shared weights, tokenizer, tiles and tile tables: equal for one checkpoint
  // packed with equal options, whatever machine packed it.
  const std::string& hash() const;
  ModelStats stats() const;  // of the whole model, whatever was opened

 private:
  friend absl::StatusOr<Model> OpenModel(const std::string& path, const OpenOptions& options,
                                         std::unique_ptr<TileReader> reader);
  friend absl::StatusOr<int64_t> WholeModelBytes(const std::string& path, const OpenOptions& options);
  friend absl::StatusOr<std::vector<int64_t>> RegionBytes(const std::string& path);
  struct Parts;
  explicit Model(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

// Whole: reads what is opened and verifies every checksum. Streamed: reads and verifies all but the experts'
// tiles, each of which is verified whenever it is read. Errors name the file and what to do;
// ResourceExhausted: the budget is too small, and the message says the least that works. `reader`, if not
// null, takes a PackReader's place where tiles are read one by one: of a streamed model, and of given
// regions.
absl::StatusOr<Model> OpenModel(const std::string& path, const OpenOptions& options = {},
                                std::unique_ptr<TileReader> reader = nullptr);

// About what the model directory `path` takes of memory if what `options` open of it is kept whole, with the
// states of their sessions. Reads the manifest alone; if regions are given, the tile tables too.
absl::StatusOr<int64_t> WholeModelBytes(const std::string& path, const OpenOptions& options);

// By region: the tiles of its experts in all layers, each once, as they lie in memory. Tiles that regions
// have in common are counted for each. Reads manifest and tile tables.
absl::StatusOr<std::vector<int64_t>> RegionBytes(const std::string& path);

}  // namespace omni
