// Some of a model's tiles in memory, the others on disk: experts are made resident when they are asked for.
//
// A slot holds one tile. An expert-layer is a table of pointers to slots, so that two experts share the slots
// of the tiles that they share, and only tiles that are not there are read:
//
//     Request --> all its tiles get slots, or it waits --> reads --> ready --> new tiles checked --> let go
//
// A request takes all its slots at once or none, in the order of asking, and gives them back without asking
// for more: so requests never wait for each other in a circle.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/model/expert_source.h"
#include "store/cache/cache_policy.h"
#include "store/cache/guesses.h"
#include "store/cache/slot_memory.h"
#include "store/cache/tile_checks.h"
#include "store/cache/tile_slots.h"
#include "store/format/delta_db.h"
#include "store/format/model_files.h"
#include "store/format/tile_index.h"
#include "store/format/tile_reader.h"

namespace omni {

// Counted since the cache was made. Tiles are counted once for every request that has them.
struct CacheStats {
  int64_t requests = 0, ready_requests = 0;  // experts asked for; those whose tiles were all there
  int64_t hits = 0;                          // tiles that were there
  int64_t joined = 0;  // tiles that were being read already, or had just been read for a guess
  int64_t misses = 0;  // tiles that had to be read
  int64_t guessed = 0, guessed_used = 0;  // tiles read for a guess; those that a request then used
  int64_t evicted = 0;                    // tiles given up
  int64_t read_bytes = 0;                 // from disk
  int64_t failed = 0;                     // tiles that could not be read or were damaged
  int64_t queued = 0;                     // requests that had to wait for slots
  // Tiles handed over while others of the same expert were being read, to be computed meanwhile, and how many
  // times.
  int64_t hand_overs = 0, handed_tiles = 0;
  int64_t waiting = 0;                // requests that wait for slots or tiles now
  int64_t foreseen = 0;               // tiles that are being read before they are asked for, now
  std::chrono::nanoseconds stall{0};  // with at least one request waiting for tiles
  double HitShare() const {           // of the tiles asked for; 1 if none was
    const int64_t all = hits + joined + misses;
    return all > 0 ? static_cast<double>(hits) / static_cast<double>(all) : 1.0;
  }
};

struct TileCacheOptions {
  int64_t slots = 0;  // at least numbers().tiles()
  PolicyKind policy = PolicyKind::kTorus;
};

// Thread-safe. Outlives what it gives out.
class TileCache {
 public:
  using OnReady = ExpertSource::OnReady;
  using OnPartial = ExpertSource::OnPartial;

  // All references outlive the cache. `packs` are the pack files' headers; the tiles themselves come from
  // `reader`, which nobody has started.
  static absl::StatusOr<std::unique_ptr<TileCache>> Make(const ModelFiles& files, const TileIndex& index,
                                                         const DeltaDb& db,
                                                         const std::vector<PackHeader>& packs,
                                                         const TileCacheOptions& options,
                                                         std::unique_ptr<TileReader> reader);
  ~TileCache();  // waits for reads in flight

  // As ExpertSource::Request, for a table of the index. Every tile is checked once after it was read, by
  // its first user (ExpertTiles::check); an error names file, tile, expert and layer, and the next request
  // tries again.
  void Request(RequesterId requester, int64_t table, const OnReady& on_ready,
               const OnPartial& on_partial = {});
  // Reads the tables' tiles, which are of one layer, where nothing more urgent is to be read and in the order
  // of these calls, and keeps them until the requester has asked for experts of that layer and then of
  // another, or says something else of that layer. What is known and does not fit yet is read as others let
  // go of their tiles; guesses that do not fit are left out, as is what of them would keep the disk busy for
  // longer than two experts take. Of kRegionKnown only tiles count that a whole region's experts have.
  void ReadAhead(RequesterId requester, std::span<const int64_t> tables, Foresight foresight);
  void ForgetRequester(RequesterId requester);
  // Gives up every tile that nobody uses.
  void Clear();
  // From now on a cache of so many slots, at least one expert's tiles; more than the model has different
  // tiles are as many as it has. Changes nothing but times and memory. Growing is over at once. Shrinking
  // gives up what is foreseen, and waits until tiles that are in use beyond the new size have been let go of:
  // whoever keeps them must not call it. InvalidArgument, or ResourceExhausted if there is no more memory,
  // and nothing has changed.
  absl::Status Resize(int64_t slots);

  CacheStats stats() const;
  int64_t slots() const;
  int64_t slot_bytes() const { return stride_; }
  // Slots are filled from the first on: the memory of those that ever held a tile. Until the next Resize.
  std::span<const uint8_t> filled_memory() const;
  const char* policy_name() const { return slots_.policy().name(); }
  std::string reader_description() const { return reader_->description(); }

 private:
  struct Load;
  struct Lease;
  struct Waiter {
    Load* load;
    int64_t tile;  // of the load's expert
  };
  // An expert that a requester said something of.
  struct Foreseen {
    RequesterId requester;
    int64_t table = 0;
    Foresight foresight = Foresight::kKnown;
    int64_t next = 0;  // the tile to go on with
  };
  struct Partial;
  struct Deferred;  // to be done when the lock has been let go of

  TileCache(const ModelFiles& files, const TileIndex& index, const DeltaDb& db, int64_t stride,
            const TileCacheOptions& options);

  uint8_t* Memory(uint32_t slot) { return memory_.data() + static_cast<int64_t>(slot) * stride_; }
  void RunDeferred(Deferred& deferred);
  // The following hold the lock.
  bool Admit(const std::shared_ptr<Load>& load, Deferred& deferred);
  void AdmitWaiting(Deferred& deferred);
  void NotifyPartial(const std::shared_ptr<Load>& load, Deferred& deferred);
  void CountDown(Load& load, Deferred& deferred);
  void EndStalls(const Deferred& deferred);
  uint32_t TakeSlot(uint32_t content, std::vector<TileRead>* reads);
  bool OfWholeRegion(int64_t table, int64_t tile) const;
  bool Foresee(Foreseen& foreseen, Deferred& deferred);
  void ReadPending(Deferred& deferred);
  void DropPending(RequesterId requester, int64_t place);
  void Fail(uint32_t slot);
  void StallBegins();
  void StallEnds();

  void OnRead(uint32_t slot, const absl::Status& read);
  absl::Status Check(int64_t table, int64_t tile, uint32_t slot);
  ExpertTiles MakeTiles(std::shared_ptr<Lease> lease);
  void Release(const std::vector<uint32_t>& slots);

  const TileIndex& index_;
  const ModelConfig& config_;
  const int64_t stride_, tiles_per_expert_;
  const TileUsers users_;
  SlotMemory memory_;
  TileChecks checks_;                    // not guarded by the mutex
  std::mutex resize_mutex_;              // one Resize at a time; before mutex_
  std::condition_variable beyond_gone_;  // of slots_.beyond()

  mutable std::mutex mutex_;
  TileSlots slots_;
  Guesses guesses_;
  int64_t guess_reads_ = 0;                     // under way
  std::vector<std::vector<Waiter>> waiters_;    // by slot: for its read
  std::deque<std::shared_ptr<Load>> waiting_;   // for slots, in the order of asking
  std::deque<Foreseen> pending_;                // known, and found no room yet, in the order of announcing
  std::vector<std::shared_ptr<Load>> loading_;  // waiting for reads
  int64_t stalled_ = 0;                         // requests that wait
  std::chrono::steady_clock::time_point stall_began_;
  CacheStats stats_;
  std::unique_ptr<TileReader> reader_;  // last: its threads use all of the above
};

}  // namespace omni
