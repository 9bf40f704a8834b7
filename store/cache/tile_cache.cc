#include "store/cache/tile_cache.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/log.h"
#include "store/format/tile_delta.h"
#include "store/format/tile_table.h"

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
  std::vector<TileRead> urgent, guessed;
  std::vector<uint64_t> promoted;
  std::vector<Partial> partial;
  std::vector<std::shared_ptr<Load>> ended;
};

TileCache::TileCache(const ModelFiles& files, const TileIndex& index, const DeltaDb& db, int64_t stride)
    : files_(files),
      index_(index),
      db_(db),
      layout_(files.manifest.config.d),
      stride_(stride),
      tiles_per_expert_(index.numbers().tiles()),
      users_(index.Users()) {}

absl::StatusOr<std::unique_ptr<TileCache>> TileCache::Make(const ModelFiles& files, const TileIndex& index,
                                                           const DeltaDb& db,
                                                           const std::vector<PackHeader>& packs,
                                                           const TileCacheOptions& options,
                                                           std::unique_ptr<TileReader> reader) {
  if (packs.empty()) return absl::InvalidArgumentError(absl::StrCat(files.dir, ": the model has no experts"));
  std::unique_ptr<TileCache> cache(new TileCache(files, index, db, packs.front().stride));
  if (options.slots < cache->tiles_per_expert_) {
    return absl::InvalidArgumentError(absl::StrCat(files.dir, ": a cache of ", options.slots,
                                                   " tiles cannot hold one expert, which has ",
                                                   cache->tiles_per_expert_));
  }
  for (const PackHeader& pack : packs) {
    if (pack.stride == cache->stride_) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(files.dir, ": its pack files align tiles differently; ", "repack the model"));
  }
  absl::StatusOr<AlignedBuffer> memory = AlignedBuffer::Allocate(options.slots * cache->stride_);
  if (!memory.ok()) return memory.status();
  cache->memory_ = *std::move(memory);
  cache->policy_ = MakePolicy(options.policy, options.slots, cache->users_, files.manifest.config);
  cache->slots_.resize(static_cast<size_t>(options.slots));
  cache->checked_ = std::vector<std::atomic<bool>>(static_cast<size_t>(options.slots));
  cache->sound_ = std::vector<std::atomic<bool>>(static_cast<size_t>(index.tiles()));
  cache->slot_of_.assign(static_cast<size_t>(index.tiles()), TileIndex::kNone);
  for (int64_t slot = options.slots; slot-- > 0;) cache->free_.push_back(static_cast<uint32_t>(slot));

  cache->reader_ = std::move(reader);
  const absl::Status started =
      cache->reader_->Start({cache->memory_.data(), static_cast<size_t>(cache->memory_.size())},
                            [raw = cache.get()](uint64_t tag, const absl::Status& read) {
                              raw->OnRead(static_cast<uint32_t>(tag), read);
                            });
  if (!started.ok()) return started;
  return cache;
}

TileCache::~TileCache() = default;

void TileCache::Hold(Slot& slot) {
  if (slot.users++ == 0 && slot.held == Held::kTile) --idle_;
}

void TileCache::LetGo(uint32_t number) {
  Slot& slot = slots_[number];
  if (--slot.users > 0) return;
  if (slot.held == Held::kTile) {
    ++idle_;
  } else if (slot.held == Held::kFailed) {
    slot.held = Held::kNothing;
    free_.push_back(number);
  }
}

void TileCache::Evict(uint32_t number) {
  Slot& slot = slots_[number];
  policy_->OnEvict(number);
  slot_of_[slot.content] = TileIndex::kNone;
  slot.content = TileIndex::kNone;
  slot.held = Held::kNothing;
  slot.guessed = false;
  --idle_;
  free_.push_back(number);
}

bool TileCache::TakeSlot(uint32_t content, uint32_t* taken) {
  if (free_.empty()) {
    const int64_t victim = policy_->Victim(
        [this](uint32_t slot) { return slots_[slot].held == Held::kTile && slots_[slot].users == 0; });
    if (victim < 0) return false;
    Evict(static_cast<uint32_t>(victim));
    ++stats_.evicted;
  }
  *taken = free_.back();
  free_.pop_back();
  used_ = std::max(used_, *taken + 1);
  Slot& slot = slots_[*taken];
  slot.content = content;
  slot.held = Held::kReading;
  slot.guessed = false;
  checked_[*taken].store(false, std::memory_order_relaxed);
  slot_of_[content] = *taken;
  policy_->OnFill(*taken, content);
  return true;
}

void TileCache::Read(uint32_t slot, std::vector<TileRead>* reads) {
  reads->push_back({index_.Stored(slots_[slot].content).ref, Memory(slot), slot});
}

bool TileCache::Admit(const std::shared_ptr<Load>& load, Deferred& deferred) {
  const uint32_t* contents = index_.Of(load->table);
  const auto end = contents + tiles_per_expert_;
  int64_t absent = 0;
  for (const uint32_t* content = contents; content < end; ++content) {
    if (slot_of_[*content] == TileIndex::kNone) {
      ++absent;
    } else {
      Hold(slots_[slot_of_[*content]]);
    }
  }
  if (absent > static_cast<int64_t>(free_.size()) + idle_) {
    for (const uint32_t* content = contents; content < end; ++content) {
      if (slot_of_[*content] != TileIndex::kNone) LetGo(slot_of_[*content]);
    }
    return false;
  }
  // What was there is held by now, and what follows is new: an equal tile of the same expert is found the
  // second time.
  std::vector<bool> held_already(static_cast<size_t>(tiles_per_expert_));
  for (int64_t t = 0; t < tiles_per_expert_; ++t)
    held_already[static_cast<size_t>(t)] = slot_of_[contents[t]] != TileIndex::kNone;
  load->slots.reserve(static_cast<size_t>(tiles_per_expert_));
  for (int64_t t = 0; t < tiles_per_expert_; ++t) {
    uint32_t number = slot_of_[contents[t]];
    if (number == TileIndex::kNone) {
      if (!TakeSlot(contents[t], &number)) {  // a policy that hides a slot it could give up
        load->error = absl::InternalError("the cache's policy found no tile to give up");
        break;
      }
      Read(number, &deferred.urgent);
      ++stats_.misses;
    } else if (slots_[number].held == Held::kTile && !slots_[number].guessed) {
      ++stats_.hits;
    } else {
      ++stats_.joined;
      if (slots_[number].held == Held::kReading && slots_[number].guessed)
        deferred.promoted.push_back(number);
    }
    Slot& slot = slots_[number];
    if (!held_already[static_cast<size_t>(t)]) Hold(slot);
    if (std::exchange(slot.guessed, false)) ++stats_.guessed_used;
    if (slot.held == Held::kReading) {
      slot.waiters.push_back({load.get(), t});
      ++load->missing;
    } else if (load->on_partial) {
      load->untold.push_back(t);
    }
    policy_->OnUse(number);
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
  std::vector<uint32_t> here(load->slots.size(), TileIndex::kNone);
  for (int64_t t : load->untold) {
    const uint32_t slot = load->slots[static_cast<size_t>(t)];
    Hold(slots_[slot]);
    here[static_cast<size_t>(t)] = slot;
  }
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
}

void TileCache::StallBegins() {
  if (stalled_++ == 0) stall_began_ = std::chrono::steady_clock::now();
}

void TileCache::StallEnds() {
  if (--stalled_ == 0) stats_.stall += std::chrono::steady_clock::now() - stall_began_;
}

TileCache::Guesses& TileCache::GuessesOf(RequesterId requester) {
  Guesses& guesses = guesses_[requester];
  if (guesses.slots.empty())
    guesses.slots.resize(static_cast<size_t>(index_.numbers().tables() / users_.experts));
  return guesses;
}

void TileCache::EndGuess(Guesses& guesses, int64_t place) {
  std::vector<uint32_t>& held = guesses.slots[static_cast<size_t>(place)];
  for (uint32_t slot : held) LetGo(slot);
  guessed_slots_ -= static_cast<int64_t>(held.size());
  held.clear();
}

void TileCache::EndGuesses(Guesses& guesses) {
  for (size_t place = 0; place < guesses.slots.size(); ++place)
    EndGuess(guesses, static_cast<int64_t>(place));
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
    policy_->OnExpert(place, table % users_.experts);
    Guesses& guesses = GuessesOf(requester);
    if (place != guesses.last_place) {  // its layer is over
      EndGuess(guesses, guesses.last_place);
      guesses.last_place = place;
    }
    waiting_.push_back(load);
    AdmitWaiting(deferred);
    if (!waiting_.empty() && guessed_slots_ > 0) {
      for (auto& [id, others] : guesses_) EndGuesses(others);
      AdmitWaiting(deferred);
    }
    if (!waiting_.empty() && waiting_.back() == load) ++stats_.queued;
    if (std::find(deferred.ended.begin(), deferred.ended.end(), load) == deferred.ended.end()) {
      load->stalled = true;
      StallBegins();
    } else {
      ++stats_.ready_requests;
    }
  }
  RunDeferred(deferred);
}

void TileCache::ReadAhead(RequesterId requester, std::span<const int64_t> tables) {
  if (tables.empty()) return;
  const int64_t place = tables.front() / users_.experts;
  const int64_t most = static_cast<int64_t>(slots_.size()) - tiles_per_expert_;  // a request must find room
  Deferred deferred;
  {
    std::lock_guard lock(mutex_);
    std::vector<uint32_t>& held = GuessesOf(requester).slots[static_cast<size_t>(place)];
    const std::vector<uint32_t> before = std::exchange(held, {});
    for (int64_t table : tables) {
      policy_->OnPredict(place, table % users_.experts);
      for (int64_t t = 0; t < tiles_per_expert_ && guessed_slots_ < most; ++t) {
        const uint32_t content = index_.Of(table)[t];
        uint32_t number = slot_of_[content];
        if (number == TileIndex::kNone) {
          if (guess_reads_ >= 2 * tiles_per_expert_ || !TakeSlot(content, &number)) break;
          slots_[number].guessed = slots_[number].was_guess = true;
          ++guess_reads_;
          ++stats_.guessed;
          Read(number, &deferred.guessed);
        }
        Hold(slots_[number]);
        held.push_back(number);
        ++guessed_slots_;
      }
    }
    for (uint32_t slot : before) LetGo(slot);
    guessed_slots_ -= static_cast<int64_t>(before.size());
  }
  RunDeferred(deferred);
}

void TileCache::ForgetRequester(RequesterId requester) {
  Deferred deferred;
  {
    std::lock_guard lock(mutex_);
    const auto at = guesses_.find(requester);
    if (at == guesses_.end()) return;
    EndGuesses(at->second);
    guesses_.erase(at);
    AdmitWaiting(deferred);
  }
  RunDeferred(deferred);
}

void TileCache::Clear() {
  Deferred deferred;
  {
    std::lock_guard lock(mutex_);
    for (auto& [id, guesses] : guesses_) EndGuesses(guesses);
    for (size_t slot = 0; slot < slots_.size(); ++slot) {
      if (slots_[slot].held == Held::kTile && slots_[slot].users == 0) Evict(static_cast<uint32_t>(slot));
    }
    AdmitWaiting(deferred);
  }
  RunDeferred(deferred);
}

// Of a tile that is scattered trits and has been read as the tile which they change.
absl::Status TileCache::Derive(uint32_t content, uint8_t* tile) const {
  const TileIndex::Tile& wanted = index_.tile(content);
  if (absl::Status s = CheckTileRead(layout_, index_.Stored(content).ref, tile); !s.ok()) return s;
  const TableNumbers& numbers = index_.numbers();
  absl::StatusOr<std::string> entry =
      db_.Get(TableKey(numbers.Layer(wanted.table), numbers.Expert(wanted.table)));
  if (!entry.ok()) return entry.status();
  absl::StatusOr<TileTable> table = DecodeTable(*entry, tiles_per_expert_);
  if (!table.ok()) return table.status();
  for (const TileChange& change : table->changes) {
    if (change.tile != wanted.number || !change.inline_delta) continue;
    if (absl::Status s = ApplyTileDelta(layout_, change.delta, tile); !s.ok()) return s;
    return CheckTileRead(layout_, wanted.ref, tile);
  }
  return absl::DataLossError(absl::StrCat("has no changes in ", files_.PathOf(kDeltasFolder), kDamagedCure));
}

std::string TileCache::Blame(int64_t table, int64_t tile, absl::string_view message) const {
  const uint32_t content = index_.Of(table)[tile];
  return absl::StrCat(files_.PathOf(PackName(index_.Stored(content).ref.pack)), ": ",
                      index_.numbers().Name(table, tile), " ", message);
}

// Without the lock. Names the first of the experts that have the tile.
void TileCache::LogFailed(uint32_t content, const absl::Status& status) const {
  const int64_t table = users_.users[users_.first[content]];
  const uint32_t* const tiles = index_.Of(table);
  LogWarning("tile_failed",
             "{path}: tile {tile} of expert {expert}, layer {layer} is not used, and read again when it is "
             "next asked "
             "for: {reason}",
             {{"path", files_.PathOf(PackName(index_.Stored(content).ref.pack))},
              {"tile", std::find(tiles, tiles + tiles_per_expert_, content) - tiles},
              {"expert", index_.numbers().Expert(table).value},
              {"layer", index_.numbers().Layer(table).value},
              {"reason", status.message()}});
}

// The slot's tile is no longer there. Holds the lock.
void TileCache::Fail(uint32_t number) {
  Slot& slot = slots_[number];
  ++stats_.failed;
  slot_of_[slot.content] = TileIndex::kNone;
  policy_->OnEvict(number);
  slot.content = TileIndex::kNone;
  slot.guessed = false;
  slot.held = slot.users == 0 ? Held::kNothing : Held::kFailed;
  if (slot.users == 0) free_.push_back(number);
}

// By a holder of the slot, in which the table's tile was read.
absl::Status TileCache::Check(int64_t table, int64_t tile, uint32_t number) {
  if (checked_[number].load(std::memory_order_acquire)) return absl::OkStatus();
  const uint32_t content = index_.Of(table)[tile];
  const TileRef& ref = index_.tile(content).ref;
  const bool sound = sound_[content].load(std::memory_order_relaxed);
  const absl::Status status =
      sound ? CheckTileSum(layout_, ref, Memory(number)) : CheckTileRead(layout_, ref, Memory(number));
  if (status.ok()) {
    sound_[content].store(true, std::memory_order_relaxed);
    checked_[number].store(true, std::memory_order_release);
    return status;
  }
  bool first = false;  // else another holder has said so already
  {
    std::lock_guard lock(mutex_);
    first = slots_[number].content == content;
    if (first) Fail(number);
  }
  if (first) LogFailed(content, status);
  return absl::Status(status.code(), Blame(table, tile, status.message()));
}

void TileCache::OnRead(uint32_t number, const absl::Status& read) {
  // Until the slot is marked as read nobody else touches its memory or its content.
  const uint32_t content = slots_[number].content;
  absl::Status status = read;
  const bool derived = read.ok() && index_.tile(content).base != TileIndex::kNone;
  if (derived) {
    status = Derive(content, Memory(number));
    checked_[number].store(status.ok(), std::memory_order_release);
  }
  if (!status.ok() && !absl::IsCancelled(status)) LogFailed(content, status);
  Deferred deferred;
  {
    std::lock_guard lock(mutex_);
    Slot& slot = slots_[number];
    stats_.read_bytes += stride_;
    if (slot.was_guess) --guess_reads_;
    slot.was_guess = false;
    if (status.ok()) {
      slot.held = Held::kTile;
      if (slot.users == 0) ++idle_;
    } else {
      Fail(number);
    }
    for (const Waiter& waiter : slot.waiters) {
      Load& load = *waiter.load;
      if (!status.ok() && load.error.ok()) {
        load.error = absl::Status(
            status.code(), derived ? Blame(load.table, waiter.tile, status.message())
                                   : absl::StrCat(status.message(), " (",
                                                  index_.numbers().Name(load.table, waiter.tile), ")"));
      }
      if (status.ok() && load.on_partial) load.untold.push_back(waiter.tile);
      CountDown(load, deferred);
    }
    slot.waiters.clear();
    AdmitWaiting(deferred);
  }
  RunDeferred(deferred);
}

void TileCache::Release(const std::vector<uint32_t>& slots) {
  Deferred deferred;
  {
    std::lock_guard lock(mutex_);
    for (uint32_t slot : slots) {
      if (slot != TileIndex::kNone) LetGo(slot);
    }
    AdmitWaiting(deferred);
  }
  RunDeferred(deferred);
}

void TileCache::RunDeferred(Deferred& deferred) {
  if (!deferred.urgent.empty()) reader_->Read(deferred.urgent, true);
  for (uint64_t tag : deferred.promoted) reader_->Promote(tag);
  if (!deferred.guessed.empty()) reader_->Read(deferred.guessed, false);
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
    lease->tiles.push_back(slot == TileIndex::kNone ? nullptr : Memory(slot));
    checked = checked && (slot == TileIndex::kNone || checked_[slot].load(std::memory_order_acquire));
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
  if (stalled_ > 0) stats.stall += std::chrono::steady_clock::now() - stall_began_;
  return stats;
}

std::span<const uint8_t> TileCache::filled_memory() const {
  std::lock_guard lock(mutex_);
  return {memory_.data(), static_cast<size_t>(used_) * static_cast<size_t>(stride_)};
}

}  // namespace omni
