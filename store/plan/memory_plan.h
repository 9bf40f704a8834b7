// What goes where in memory when experts are streamed, made before anything is loaded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/model/config.h"
#include "store/format/model_files.h"
#include "store/format/model_summary.h"
#include "store/format/tile.h"

namespace omni {

// The index of the tiles: a number and an owner for every tile of every table, a record per unique tile, and
// one per slot of the cache.
inline constexpr int64_t kTableTileBytes = 4, kOwnerBytes = 4, kUniqueTileBytes = 48, kCacheSlotBytes = 24;
// What no model's size changes: the program with its threads and activations, and RocksDB's block cache.
inline constexpr int64_t kProgramBytes = int64_t{192} << 20, kBlockCacheBytes = int64_t{32} << 20;

struct MemoryPlan {
  int64_t ram_bytes = 0;      // the budget for the whole process
  int64_t shared_bytes = 0;   // shared weights, resident
  int64_t index_bytes = 0;    // tile tables and their index
  int64_t session_bytes = 0;  // states of `sessions` sessions, each of state_bytes
  int64_t sessions = 0;       // that the plan was made for
  int64_t state_bytes = 0;
  int64_t other_bytes = 0;   // program, database block cache, activations
  int64_t tile_bytes = 0;    // of a cache slot: the pack files' stride
  int64_t cache_tiles = 0;   // slots of the expert cache: what is left
  int64_t needed_tiles = 0;  // the least that works: two expert layers, one computing and one filling
  int64_t unique_tiles = 0;  // of the model; cache_tiles never exceeds it
  int64_t cache_bytes() const { return tile_bytes * cache_tiles; }
  int64_t used_bytes() const {
    return shared_bytes + index_bytes + session_bytes + other_bytes + cache_bytes();
  }
  // What the states of sessions may take together: the budget without all else. At least session_bytes, more
  // where the cache needs no more memory.
  int64_t bytes_for_sessions() const { return session_bytes + (ram_bytes - used_bytes()); }
  // How many sessions may have a state at once; at least `sessions`.
  int64_t sessions_that_fit() const {
    return state_bytes > 0 ? bytes_for_sessions() / state_bytes : INT64_MAX;
  }
};

// What the plan needs to know of a model.
struct ModelSizes {
  int64_t shared_bytes = 0;
  int64_t tables = 0;  // experts x expert layers
  int64_t tiles_per_expert = 0;
  int64_t unique_tiles = 0;
  int64_t tile_stride = 0;
  int64_t session_bytes = 0;  // of one session
};

// Of a packed model; `packs` are its pack files' headers.
ModelSizes SizesOf(const ModelFiles& files, const std::vector<PackHeader>& packs);
// Of the model directory `path`, with all else that can be said of it without loading it. Errors as
// SummarizeModel.
struct SizedModel {
  ModelSummary summary;
  ModelSizes sizes;
};
absl::StatusOr<SizedModel> ReadSizes(const std::string& path);
// Of the model of a valid config that nobody has packed yet, when experts have their neuron groups in common
// and nothing else.
ModelSizes ExpectedSizes(const ModelConfig& config);

// The smallest ram_bytes with which PlanMemory succeeds; INT64_MAX if no budget does.
int64_t LeastBudget(const ModelSizes& sizes, int64_t sessions);

// For how many sessions a budget of `ram_bytes` is planned: for `sessions`, and up to `most`, if that is
// more, where it is more than LeastBudget: they have a quarter of what is more, a sixteenth of all at most.
int64_t SessionsToPlan(const ModelSizes& sizes, int64_t ram_bytes, int64_t sessions, int64_t most);

// ResourceExhausted if not even needed_tiles fit: the message says the least budget that works, and what
// would make it smaller. InvalidArgument: a negative size, or experts without tiles. A model without experts
// gets a cache without slots.
absl::StatusOr<MemoryPlan> PlanMemory(const ModelSizes& sizes, int64_t ram_bytes, int64_t sessions);
// Of a model that is kept whole and takes `resident_bytes`, sessions apart: all its tiles have a slot, and
// what is left of the budget is for sessions. ResourceExhausted if there is less than `sessions` need.
absl::StatusOr<MemoryPlan> PlanWhole(const ModelSizes& sizes, int64_t resident_bytes, int64_t ram_bytes,
                                     int64_t sessions);

}  // namespace omni
