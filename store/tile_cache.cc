#include "store/tile_cache.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "store/tile_delta.h"
#include "store/tile_table.h"

namespace omni {

// An expert that somebody asked for.
struct TileCache::Load {
  int64_t table = 0;
  Ready ready;
  std::vector<uint32_t> slots;  // by tile, once it has been admitted
  int64_t missing = 0;          // of them, still being read
  absl::Status error;
  bool stalled = false;  // its asker waits
};

// Keeps an expert's tiles from being given up.
struct TileCache::Lease {
  Lease(TileCache* owner, std::vector<uint32_t> held) : cache(owner), slots(std::move(held)) {}
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease() { cache->Release(slots); }

  TileCache* cache;
  std::vector<uint32_t> slots;
  std::vector<const uint8_t*> tiles;
};

struct TileCache::Work {
  std::vector<ReadRequest> urgent, guessed;
  std::vector<uint64_t> promoted;
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
                                                           const TileCacheOptions& options) {
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
  cache->slot_of_.assign(static_cast<size_t>(index.tiles()), TileIndex::kNone);
  for (int64_t slot = options.slots; slot-- > 0;) cache->free_.push_back(static_cast<uint32_t>(slot));
  cache->expected_.resize(static_cast<size_t>(index.numbers().tables() / cache->users_.experts));

  ReadQueueOptions reads = options.reads;
  reads.memory = {cache->memory_.data(), static_cast<size_t>(cache->memory_.size())};
  std::vector<std::string> paths;
  for (size_t pack = 0; pack < packs.size(); ++pack)
    paths.push_back(files.PathOf(PackName(static_cast<uint32_t>(pack))));
  const ReadQueue::Done done = [raw = cache.get()](uint64_t tag, const absl::Status& read) {
    raw->OnRead(static_cast<uint32_t>(tag), read);
  };
  auto queue = options.open_reads ? options.open_reads(std::move(paths), reads, done)
                                  : ReadQueue::Open(std::move(paths), reads, done);
  if (!queue.ok()) return queue.status();
  cache->reads_ = *std::move(queue);
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
  slot_of_[content] = *taken;
  policy_->OnFill(*taken, content);
  return true;
}

void TileCache::Read(uint32_t slot, std::vector<ReadRequest>* reads) {
  const TileRef& ref = index_.Stored(slots_[slot].content).ref;
  reads->push_back(
      {static_cast<int32_t>(ref.pack), ref.offset, stride_, layout_.payload(), Memory(slot), slot});
}

bool TileCache::Admit(const std::shared_ptr<Load>& load, Work& work) {
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
  // What was there is held by now, and what follows is new: an equal tile of the same expert is found the second time.
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
      Read(number, &work.urgent);
      ++stats_.misses;
    } else if (slots_[number].held == Held::kTile) {
      ++stats_.hits;
    } else {
      ++stats_.joined;
      if (slots_[number].guessed) work.promoted.push_back(number);
    }
    Slot& slot = slots_[number];
    if (!held_already[static_cast<size_t>(t)]) Hold(slot);
    if (std::exchange(slot.guessed, false)) ++stats_.guessed_used;
    if (slot.held == Held::kReading) {
      slot.waiters.push_back({load.get(), t});
      ++load->missing;
    }
    policy_->OnUse(number);
    load->slots.push_back(number);
  }
  if (load->missing == 0) {
    work.ended.push_back(load);
  } else {
    loading_.push_back(load);
  }
  return true;
}

void TileCache::AdmitWaiting(Work& work) {
  while (!waiting_.empty() && Admit(waiting_.front(), work)) waiting_.pop_front();
}

void TileCache::StallBegins() {
  if (stalled_++ == 0) stall_began_ = std::chrono::steady_clock::now();
}

void TileCache::StallEnds() {
  if (--stalled_ == 0) stats_.stall += std::chrono::steady_clock::now() - stall_began_;
}

void TileCache::EndExpectation(int64_t place) {
  std::vector<uint32_t>& held = expected_[static_cast<size_t>(place)];
  for (uint32_t slot : held) LetGo(slot);
  expected_slots_ -= static_cast<int64_t>(held.size());
  held.clear();
}

void TileCache::Request(int64_t table, const Ready& ready, const Some& some) {
  auto load = std::make_shared<Load>();
  load->table = table;
  load->ready = ready;
  const int64_t place = table / users_.experts;
  Work work;
  ExpertTiles present;
  {
    std::lock_guard lock(mutex_);
    ++stats_.requests;
    policy_->OnExpert(place, table % users_.experts);
    if (place != last_place_) {  // its layer is over
      EndExpectation(last_place_);
      last_place_ = place;
    }
    waiting_.push_back(load);
    AdmitWaiting(work);
    if (!waiting_.empty() && expected_slots_ > 0) {
      for (size_t i = 0; i < expected_.size(); ++i) EndExpectation(static_cast<int64_t>(i));
      AdmitWaiting(work);
    }
    if (!waiting_.empty() && waiting_.back() == load) ++stats_.queued;
    if (std::find(work.ended.begin(), work.ended.end(), load) == work.ended.end()) {
      load->stalled = true;
      StallBegins();
      if (some) present = Present(load->slots);
    } else {
      ++stats_.ready_requests;
    }
  }
  Do(work);
  if (!present.tiles.empty()) some(std::move(present));
}

// Those of the slots that hold a tile already; empty if none does. Holds the lock: no lease may end here.
ExpertTiles TileCache::Present(const std::vector<uint32_t>& slots) {
  std::vector<uint32_t> here;
  for (uint32_t slot : slots) {
    if (slots_[slot].held == Held::kTile) here.push_back(slot);
  }
  if (here.empty()) return {};
  for (uint32_t slot : here) Hold(slots_[slot]);
  auto lease = std::make_shared<Lease>(this, std::move(here));
  for (uint32_t slot : slots)
    lease->tiles.push_back(slots_[slot].held == Held::kTile ? Memory(slot) : nullptr);
  const std::span<const uint8_t* const> tiles = lease->tiles;
  return {tiles, std::move(lease)};
}

void TileCache::Expect(std::span<const int64_t> tables) {
  if (tables.empty()) return;
  const int64_t place = tables.front() / users_.experts;
  const int64_t most = static_cast<int64_t>(slots_.size()) - tiles_per_expert_;  // a request must find room
  Work work;
  {
    std::lock_guard lock(mutex_);
    std::vector<uint32_t> before = std::move(expected_[static_cast<size_t>(place)]);
    std::vector<uint32_t>& held = expected_[static_cast<size_t>(place)];
    held.clear();
    for (int64_t table : tables) {
      policy_->OnPredict(place, table % users_.experts);
      for (int64_t t = 0; t < tiles_per_expert_ && expected_slots_ < most; ++t) {
        const uint32_t content = index_.Of(table)[t];
        uint32_t number = slot_of_[content];
        if (number == TileIndex::kNone) {
          if (guesses_ >= 2 * tiles_per_expert_ || !TakeSlot(content, &number)) break;
          slots_[number].guessed = slots_[number].was_guess = true;
          ++guesses_;
          ++stats_.guessed;
          Read(number, &work.guessed);
        }
        Hold(slots_[number]);
        held.push_back(number);
        ++expected_slots_;
      }
    }
    for (uint32_t slot : before) LetGo(slot);
    expected_slots_ -= static_cast<int64_t>(before.size());
  }
  Do(work);
}

void TileCache::Clear() {
  Work work;
  {
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < expected_.size(); ++i) EndExpectation(static_cast<int64_t>(i));
    for (size_t slot = 0; slot < slots_.size(); ++slot) {
      if (slots_[slot].held == Held::kTile && slots_[slot].users == 0) Evict(static_cast<uint32_t>(slot));
    }
    AdmitWaiting(work);
  }
  Do(work);
}

absl::Status TileCache::CheckTile(uint32_t content, uint8_t* tile) const {
  const TileIndex::Tile& wanted = index_.tile(content);
  if (absl::Status s = CheckTileRead(layout_, index_.Stored(content).ref, tile); !s.ok()) return s;
  if (wanted.base == TileIndex::kNone) return absl::OkStatus();
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

void TileCache::OnRead(uint32_t number, const absl::Status& read) {
  // Until the slot is marked as read nobody else touches its memory or its content.
  const uint32_t content = slots_[number].content;
  absl::Status status = read;
  std::string path;
  if (read.ok()) {
    status = CheckTile(content, Memory(number));
    if (!status.ok()) path = files_.PathOf(PackName(index_.Stored(content).ref.pack));
  }
  Work work;
  {
    std::lock_guard lock(mutex_);
    Slot& slot = slots_[number];
    stats_.read_bytes += stride_;
    if (slot.was_guess) --guesses_;
    slot.was_guess = false;
    if (status.ok()) {
      slot.held = Held::kTile;
      if (slot.users == 0) ++idle_;
    } else {
      ++stats_.failed;
      slot_of_[content] = TileIndex::kNone;
      policy_->OnEvict(number);
      slot.content = TileIndex::kNone;
      slot.guessed = false;
      slot.held = slot.users == 0 ? Held::kNothing : Held::kFailed;
      if (slot.users == 0) free_.push_back(number);
    }
    for (const Waiter& waiter : slot.waiters) {
      Load& load = *waiter.load;
      if (!status.ok() && load.error.ok()) {
        const std::string name = index_.numbers().Name(load.table, waiter.tile);
        load.error =
            absl::Status(status.code(), path.empty() ? absl::StrCat(status.message(), " (", name, ")")
                                                     : absl::StrCat(path, ": ", name, " ", status.message()));
      }
      if (--load.missing > 0) continue;
      const auto at = std::find_if(loading_.begin(), loading_.end(),
                                   [&](const auto& candidate) { return candidate.get() == &load; });
      work.ended.push_back(std::move(*at));
      loading_.erase(at);
    }
    slot.waiters.clear();
    AdmitWaiting(work);
    for (const auto& load : work.ended) {
      if (std::exchange(load->stalled, false)) StallEnds();
    }
  }
  Do(work);
}

void TileCache::Release(const std::vector<uint32_t>& slots) {
  Work work;
  {
    std::lock_guard lock(mutex_);
    for (uint32_t slot : slots) LetGo(slot);
    AdmitWaiting(work);
    for (const auto& load : work.ended) {
      if (std::exchange(load->stalled, false)) StallEnds();
    }
  }
  Do(work);
}

void TileCache::Do(Work& work) {
  if (!work.urgent.empty()) reads_->Submit(work.urgent, true);
  for (uint64_t tag : work.promoted) reads_->Promote(tag);
  if (!work.guessed.empty()) reads_->Submit(work.guessed, false);
  for (const std::shared_ptr<Load>& load : work.ended) {
    if (!load->error.ok()) {
      Release(load->slots);
      load->ready(load->error);
      continue;
    }
    // Nothing of the lease stays here: when the asker lets go of it, it is over.
    auto lease = std::make_shared<Lease>(this, std::move(load->slots));
    for (uint32_t slot : lease->slots) lease->tiles.push_back(Memory(slot));
    const std::span<const uint8_t* const> tiles = lease->tiles;
    load->ready(ExpertTiles{tiles, std::move(lease)});
  }
}

CacheStats TileCache::stats() const {
  std::lock_guard lock(mutex_);
  CacheStats stats = stats_;
  if (stalled_ > 0) stats.stall += std::chrono::steady_clock::now() - stall_began_;
  return stats;
}

std::span<const uint8_t> TileCache::filled_memory() const {
  std::lock_guard lock(mutex_);
  return {memory_.data(), static_cast<size_t>(used_) * static_cast<size_t>(stride_)};
}

}  // namespace omni
