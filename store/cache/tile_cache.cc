#include "store/cache/tile_cache.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

namespace omni {

namespace {
// So many tiles make a hand-over to an asker that waits for more: few enough that he has computed them when
// the next are there, enough to be worth a message.
constexpr size_t kTilesPerPartial = 16;
}  // namespace

// An expert that somebody asked for.
struct TileCache::Load {
  int64_t table = 0;
  OnReady on_ready;
  OnPartial on_partial;         // empty: not wanted, or `on_ready` is next
  std::vector<uint32_t> slots;  // by tile, once it has been admitted
  std::vector<int64_t> untold;  // tiles that are there and were not handed over; only if `on_partial`
  int64_t missing = 0;          // tiles still being read, and hand-overs under way
  absl::Status error;
  bool stalled = false;  // its asker waits
};

// Keeps an expert's tiles, or some of them, from being given up.
struct TileCache::Lease {
  Lease(TileCache* owner, int64_t of, std::vector<uint32_t> held)
      : cache(owner), table(of), slots(std::move(held)) {}
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease() { cache->Release(slots); }

  TileCache* cache;
  int64_t table;
  std::vector<uint32_t> slots;  // by tile; kNone: none
  std::vector<const uint8_t*> tiles;
};

struct TileCache::Partial {
  std::shared_ptr<Load> load;
  ExpertTiles tiles;
};

struct TileCache::Deferred {
  std::vector<TileRead> asked, known, guessed;
  std::vector<uint64_t> promoted;
  std::vector<Partial> partial;
  std::vector<std::shared_ptr<Load>> ended;
};

TileCache::TileCache(const ModelFiles& files, const TileIndex& index, const DeltaDb& db, int64_t stride,
                     const TileCacheOptions& options)
    : index_(index),
      config_(files.manifest.config),
      stride_(stride),
      tiles_per_expert_(index.numbers().tiles()),
      users_(index.Users()),
      checks_(files, index, db, std::max(options.slots, index.tiles())),
      slots_(
          options.slots, std::max(options.slots, index.tiles()), index.tiles(),
          MakePolicy(options.policy, std::max(options.slots, index.tiles()), users_, files.manifest.config)),
      guesses_(slots_, index.numbers().tables() / users_.experts),
      waiters_(static_cast<size_t>(std::max(options.slots, index.tiles()))) {}

absl::StatusOr<std::unique_ptr<TileCache>> TileCache::Make(const ModelFiles& files, const TileIndex& index,
                                                           const DeltaDb& db,
                                                           const std::vector<PackHeader>& packs,
                                                           const TileCacheOptions& options,
                                                           std::unique_ptr<TileReader> reader) {
  if (packs.empty()) return absl::InvalidArgumentError(absl::StrCat(files.dir, ": the model has no experts"));
  const int64_t tiles = index.numbers().tiles(), stride = packs.front().stride;
  if (options.slots < tiles) {
    return absl::InvalidArgumentError(absl::StrCat(files.dir, ": a cache of ", options.slots,
                                                   " tiles cannot hold one expert, which has ", tiles));
  }
  for (const PackHeader& pack : packs) {
    if (pack.stride == stride) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(files.dir, ": its pack files align tiles differently; write the model again with ",
                     "omni pack --from"));
  }
  absl::StatusOr<SlotMemory> memory =
      SlotMemory::Reserve(options.slots * stride, std::max(options.slots, index.tiles()) * stride);
  if (!memory.ok()) return memory.status();
  std::unique_ptr<TileCache> cache(new TileCache(files, index, db, stride, options));
  cache->memory_ = *std::move(memory);
  cache->reader_ = std::move(reader);
  const absl::Status started =
      cache->reader_->Start({cache->memory_.data(), static_cast<size_t>(cache->memory_.bytes())},
                            [raw = cache.get()](uint64_t tag, const absl::Status& read) {
                              raw->OnRead(static_cast<uint32_t>(tag), read);
                            });
  if (!started.ok()) return started;
  return cache;
}

TileCache::~TileCache() = default;

// For a content that has none; kNone if there is none to be had.
uint32_t TileCache::TakeSlot(uint32_t content, std::vector<TileRead>* reads) {
  const uint32_t slot = slots_.Take(content);
  if (slot == TileSlots::kNone) return slot;
  checks_.Forget(slot);
  reads->push_back({index_.Stored(content).ref, Memory(slot), slot});
  return slot;
}

bool TileCache::Admit(const std::shared_ptr<Load>& load, Deferred& deferred) {
  const uint32_t* contents = index_.Of(load->table);
  const auto end = contents + tiles_per_expert_;
  int64_t absent = 0;
  for (const uint32_t* content = contents; content < end; ++content) {
    const uint32_t slot = slots_.Find(*content);
    if (slot == TileSlots::kNone) {
      ++absent;
    } else {
      slots_.Hold(slot);
    }
  }
  if (absent > slots_.available()) {
    for (const uint32_t* content = contents; content < end; ++content) {
      if (const uint32_t slot = slots_.Find(*content); slot != TileSlots::kNone) slots_.LetGo(slot);
    }
    return false;
  }
  slots_.Prepare(absent);
  // What was there is held by now, and what follows is new: an equal tile of the same expert is found the
  // second time.
  std::vector<bool> held_already(static_cast<size_t>(tiles_per_expert_));
  for (int64_t t = 0; t < tiles_per_expert_; ++t)
    held_already[static_cast<size_t>(t)] = slots_.Find(contents[t]) != TileSlots::kNone;
  load->slots.reserve(static_cast<size_t>(tiles_per_expert_));
  for (int64_t t = 0; t < tiles_per_expert_; ++t) {
    uint32_t number = slots_.Find(contents[t]);
    if (number == TileSlots::kNone) {
      number = TakeSlot(contents[t], &deferred.asked);
      if (number == TileSlots::kNone) {  // a policy that hides a slot it could give up
        load->error = absl::InternalError("the cache's policy found no tile to give up");
        break;
      }
      ++stats_.misses;
    } else if (slots_[number].state == TileSlots::State::kTile && !slots_[number].guessed) {
      ++stats_.hits;
    } else {
      ++stats_.joined;
      if (slots_[number].state == TileSlots::State::kReading && slots_[number].guessed)
        deferred.promoted.push_back(number);
    }
    TileSlots::Slot& slot = slots_[number];
    if (!held_already[static_cast<size_t>(t)]) slots_.Hold(number);
    if (std::exchange(slot.guessed, false)) ++stats_.guessed_used;
    if (slot.state == TileSlots::State::kReading) {
      waiters_[number].push_back({load.get(), t});
      ++load->missing;
    } else if (load->on_partial) {
      load->untold.push_back(t);
    }
    slots_.policy().OnUse(number);
    load->slots.push_back(number);
  }
  if (load->missing == 0) {
    deferred.ended.push_back(load);
  } else {
    loading_.push_back(load);
    if (!load->untold.empty()) NotifyPartial(load, deferred);
  }
  return true;
}

// Hands over what the load's asker has not been told of. Counts as a tile that is missing, so that `on_ready`
// comes after it.
void TileCache::NotifyPartial(const std::shared_ptr<Load>& load, Deferred& deferred) {
  std::vector<uint32_t> here(load->slots.size(), TileSlots::kNone);
  for (int64_t t : load->untold) {
    const uint32_t slot = load->slots[static_cast<size_t>(t)];
    slots_.Hold(slot);
    here[static_cast<size_t>(t)] = slot;
  }
  ++stats_.hand_overs;
  stats_.handed_tiles += static_cast<int64_t>(load->untold.size());
  deferred.partial.push_back({load, MakeTiles(std::make_shared<Lease>(this, load->table, std::move(here)))});
  load->untold.clear();
  ++load->missing;
}

// One less that the load waits for.
void TileCache::CountDown(Load& load, Deferred& deferred) {
  const bool last = --load.missing == 0;
  if (!last && load.untold.size() < kTilesPerPartial) return;
  const auto at = std::find_if(loading_.begin(), loading_.end(),
                               [&](const auto& candidate) { return candidate.get() == &load; });
  if (!last) {
    NotifyPartial(*at, deferred);
    return;
  }
  deferred.ended.push_back(std::move(*at));
  loading_.erase(at);
}

void TileCache::EndStalls(const Deferred& deferred) {
  for (const auto& load : deferred.ended) {
    if (std::exchange(load->stalled, false)) StallEnds();
  }
}

// Whoever is admitted and finds all tiles there has ended, and waits no longer.
void TileCache::AdmitWaiting(Deferred& deferred) {
  while (!waiting_.empty() && Admit(waiting_.front(), deferred)) waiting_.pop_front();
  EndStalls(deferred);
  if (slots_.beyond() == 0) beyond_gone_.notify_all();
}

void TileCache::StallBegins() {
  if (stalled_++ == 0) stall_began_ = std::chrono::steady_clock::now();
}

void TileCache::StallEnds() {
  if (--stalled_ == 0) stats_.stall += std::chrono::steady_clock::now() - stall_began_;
}

void TileCache::Request(RequesterId requester, int64_t table, const OnReady& on_ready,
                        const OnPartial& on_partial) {
  auto load = std::make_shared<Load>();
  load->table = table;
  load->on_ready = on_ready;
  load->on_partial = on_partial;
  const int64_t place = table / users_.experts;
  Deferred deferred;
  {
    std::lock_guard lock(mutex_);
    ++stats_.requests;
    slots_.policy().OnExpert(place, table % users_.experts);
    guesses_.Visit(requester, place);
    std::erase_if(pending_, [&](const Foreseen& foreseen) {
      return foreseen.requester == requester && foreseen.table == table;
    });
    waiting_.push_back(load);
    AdmitWaiting(deferred);
    if (!waiting_.empty() && guesses_.held() > 0) {
      guesses_.End();
      AdmitWaiting(deferred);
    }
    if (!waiting_.empty() && waiting_.back() == load) ++stats_.queued;
    ReadPending(deferred);
    if (std::find(deferred.ended.begin(), deferred.ended.end(), load) == deferred.ended.end()) {
      load->stalled = true;
      StallBegins();
    } else {
      ++stats_.ready_requests;
    }
  }
  RunDeferred(deferred);
}

void TileCache::ReadAhead(RequesterId requester, std::span<const int64_t> tables, Foresight foresight) {
  if (tables.empty()) return;
  const int64_t place = tables.front() / users_.experts;
  Deferred deferred;
  {
    std::lock_guard lock(mutex_);
    const std::vector<uint32_t> before = guesses_.Renew(requester, place);
    DropPending(requester, place);
    for (int64_t table : tables) {
      if (foresight != Foresight::kRegionKnown) slots_.policy().OnPredict(place, table % users_.experts);
      Foreseen foreseen{requester, table, foresight};
      const bool known = foresight != Foresight::kGuess;
      const bool waits = known && !pending_.empty();
      if (!waits && Foresee(foreseen, deferred)) continue;
      if (known) pending_.push_back(foreseen);
    }
    guesses_.Release(before);
    AdmitWaiting(deferred);
    ReadPending(deferred);
  }
  RunDeferred(deferred);
}

// Whether all experts of the table's region have its tile at that place.
bool TileCache::OfWholeRegion(int64_t table, int64_t tile) const {
  const int64_t first = table / users_.experts * users_.experts;  // of the layer's tables
  const RegionId region = config_.RegionOf(ExpertId(static_cast<int32_t>(table - first)));
  for (int64_t i = 0; i < config_.experts_per_region(); ++i) {
    if (index_.Of(first + config_.ExpertOf(region, i).value)[tile] != index_.Of(table)[tile]) return false;
  }
  return true;
}

// Holds tiles from `next` on, and begins to read those that are not there. False: there is no room for more.
bool TileCache::Foresee(Foreseen& foreseen, Deferred& deferred) {
  const int64_t place = foreseen.table / users_.experts;
  const int64_t most = slots_.size() - tiles_per_expert_;  // a request must find room
  const uint32_t* const contents = index_.Of(foreseen.table);
  const bool guess = foreseen.foresight == Foresight::kGuess;
  // What is there is held before anything is given up for the rest.
  std::vector<bool> held(static_cast<size_t>(tiles_per_expert_));
  int64_t absent = 0;
  for (int64_t t = foreseen.next; t < tiles_per_expert_ && guesses_.held() < most; ++t) {
    if (foreseen.foresight == Foresight::kRegionKnown && !OfWholeRegion(foreseen.table, t)) {
      held[static_cast<size_t>(t)] = true;  // not wanted
      continue;
    }
    const uint32_t number = slots_.Find(contents[t]);
    if (number == TileSlots::kNone) {
      ++absent;
      continue;
    }
    held[static_cast<size_t>(t)] = true;
    // What is to go is not kept for later: whoever shrinks the cache waits for it.
    if (!slots_.Beyond(number)) guesses_.Hold(foreseen.requester, place, number);
  }
  absent = std::min(absent, most - guesses_.held());
  if (guess) absent = std::min(absent, 2 * tiles_per_expert_ - guess_reads_);
  slots_.Prepare(absent);
  for (int64_t& t = foreseen.next; t < tiles_per_expert_; ++t) {
    if (held[static_cast<size_t>(t)]) continue;
    if (guesses_.held() >= most) return false;
    if (guess && guess_reads_ >= 2 * tiles_per_expert_) return false;
    uint32_t number = slots_.Find(contents[t]);  // an equal tile of the same expert may have come in between
    if (number == TileSlots::kNone) {
      number = TakeSlot(contents[t], guess ? &deferred.guessed : &deferred.known);
      if (number == TileSlots::kNone) return false;
      slots_[number].guessed = slots_[number].was_guess = true;
      ++guess_reads_;
      ++stats_.guessed;
    }
    guesses_.Hold(foreseen.requester, place, number);
  }
  return true;
}

// Those who wait for slots come first.
void TileCache::ReadPending(Deferred& deferred) {
  while (!pending_.empty() && waiting_.empty() && Foresee(pending_.front(), deferred)) pending_.pop_front();
}

void TileCache::DropPending(RequesterId requester, int64_t place) {
  std::erase_if(pending_, [&](const Foreseen& foreseen) {
    return foreseen.requester == requester && (place < 0 || foreseen.table / users_.experts == place);
  });
}

void TileCache::ForgetRequester(RequesterId requester) {
  Deferred deferred;
  {
    std::lock_guard lock(mutex_);
    DropPending(requester, -1);
    guesses_.Forget(requester);
    AdmitWaiting(deferred);
    ReadPending(deferred);
  }
  RunDeferred(deferred);
}

void TileCache::Clear() {
  Deferred deferred;
  {
    std::lock_guard lock(mutex_);
    pending_.clear();
    guesses_.End();
    slots_.EvictIdle();
    AdmitWaiting(deferred);
  }
  RunDeferred(deferred);
}

absl::Status TileCache::Resize(int64_t slots) {
  if (slots < tiles_per_expert_) {
    return absl::InvalidArgumentError(
        absl::StrCat("a cache of ", slots, " tiles cannot hold one expert, which has ", tiles_per_expert_));
  }
  slots = std::min(slots, static_cast<int64_t>(waiters_.size()));
  const std::lock_guard resizing(resize_mutex_);
  const int64_t before = this->slots();
  if (slots == before) return absl::OkStatus();
  if (slots > before) {
    if (absl::Status s = memory_.Resize(slots * stride_); !s.ok()) return s;
  }
  Deferred deferred;
  {
    const std::lock_guard lock(mutex_);
    if (slots < before) {
      pending_.clear();
      guesses_.End();
    }
    slots_.Resize(slots);
    AdmitWaiting(deferred);
    ReadPending(deferred);
  }
  RunDeferred(deferred);
  if (slots > before) return absl::OkStatus();
  {
    std::unique_lock lock(mutex_);
    beyond_gone_.wait(lock, [&] { return slots_.beyond() == 0; });
  }
  reader_->ForgetMemory();
  return memory_.Resize(slots * stride_);
}

int64_t TileCache::slots() const {
  const std::lock_guard lock(mutex_);
  return slots_.size();
}

// The slot's tile is no longer there. Holds the lock.
void TileCache::Fail(uint32_t slot) {
  ++stats_.failed;
  slots_.Fail(slot);
}

// By a holder of the slot, in which the table's tile was read.
absl::Status TileCache::Check(int64_t table, int64_t tile, uint32_t slot) {
  if (checks_.checked(slot)) return absl::OkStatus();
  const uint32_t content = index_.Of(table)[tile];
  const absl::Status status = checks_.Check(content, slot, Memory(slot));
  if (status.ok()) return status;
  bool first = false;  // else another holder has said so already
  {
    std::lock_guard lock(mutex_);
    first = slots_[slot].content == content;
    if (first) Fail(slot);
  }
  if (first) checks_.LogFailed(content, status);
  return absl::Status(status.code(), checks_.Located(table, tile, status.message()));
}

void TileCache::OnRead(uint32_t number, const absl::Status& read) {
  // Until the slot is marked as read nobody else touches its memory or its content.
  const uint32_t content = slots_[number].content;
  const absl::Status status = read.ok() ? checks_.Complete(content, number, Memory(number)) : read;
  if (!status.ok() && !absl::IsCancelled(status)) checks_.LogFailed(content, status);
  Deferred deferred;
  {
    std::lock_guard lock(mutex_);
    TileSlots::Slot& slot = slots_[number];
    stats_.read_bytes += stride_;
    if (std::exchange(slot.was_guess, false)) --guess_reads_;
    if (status.ok()) {
      slots_.SetTile(number);
    } else {
      Fail(number);
    }
    for (const Waiter& waiter : waiters_[number]) {
      Load& load = *waiter.load;
      if (!status.ok() && load.error.ok()) {
        load.error = absl::Status(
            status.code(), read.ok() ? checks_.Located(load.table, waiter.tile, status.message())
                                     : absl::StrCat(status.message(), " (",
                                                    index_.numbers().Name(load.table, waiter.tile), ")"));
      }
      if (status.ok() && load.on_partial) load.untold.push_back(waiter.tile);
      CountDown(load, deferred);
    }
    waiters_[number].clear();
    AdmitWaiting(deferred);
  }
  RunDeferred(deferred);
}

void TileCache::Release(const std::vector<uint32_t>& slots) {
  Deferred deferred;
  {
    std::lock_guard lock(mutex_);
    for (uint32_t slot : slots) {
      if (slot != TileSlots::kNone) slots_.LetGo(slot);
    }
    AdmitWaiting(deferred);
  }
  RunDeferred(deferred);
}

void TileCache::RunDeferred(Deferred& deferred) {
  if (!deferred.asked.empty()) reader_->Read(deferred.asked, ReadUrgency::kAsked);
  for (uint64_t tag : deferred.promoted) reader_->Promote(tag);
  if (!deferred.known.empty()) reader_->Read(deferred.known, ReadUrgency::kKnown);
  if (!deferred.guessed.empty()) reader_->Read(deferred.guessed, ReadUrgency::kGuessed);
  while (!deferred.partial.empty()) {
    Partial partial = std::move(deferred.partial.back());
    deferred.partial.pop_back();
    partial.load->on_partial(std::move(partial.tiles));
    std::lock_guard lock(mutex_);
    CountDown(*partial.load, deferred);
    EndStalls(deferred);
  }
  for (const std::shared_ptr<Load>& load : deferred.ended) {
    load->on_partial = nullptr;
    if (!load->error.ok()) {
      Release(load->slots);
      load->on_ready(load->error);
      continue;
    }
    // Nothing of the lease stays here: when the asker lets go of it, it is over.
    load->on_ready(MakeTiles(std::make_shared<Lease>(this, load->table, std::move(load->slots))));
  }
}

ExpertTiles TileCache::MakeTiles(std::shared_ptr<Lease> lease) {
  ExpertTiles given;
  bool checked = true;
  for (uint32_t slot : lease->slots) {
    lease->tiles.push_back(slot == TileSlots::kNone ? nullptr : Memory(slot));
    checked = checked && (slot == TileSlots::kNone || checks_.checked(slot));
  }
  if (!checked) {
    given.check = [held = lease.get()](int64_t tile) {
      return held->cache->Check(held->table, tile, held->slots[static_cast<size_t>(tile)]);
    };
  }
  given.tiles = lease->tiles;
  given.keep = std::move(lease);
  return given;
}

CacheStats TileCache::stats() const {
  std::lock_guard lock(mutex_);
  CacheStats stats = stats_;
  stats.waiting = stalled_;
  stats.foreseen = guess_reads_;
  stats.evicted = slots_.evicted();
  if (stalled_ > 0) stats.stall += std::chrono::steady_clock::now() - stall_began_;
  return stats;
}

std::span<const uint8_t> TileCache::filled_memory() const {
  std::lock_guard lock(mutex_);
  return {memory_.data(), static_cast<size_t>(slots_.ever_filled() * stride_)};
}

}  // namespace omni
