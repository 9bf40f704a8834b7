// Which tile each slot of a cache holds, and whether anybody needs it there.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "store/cache/cache_policy.h"

namespace omni {

// Contents are numbered as the tiles of an index. A slot is empty, being read into, or holds a tile; it is in
// use while somebody holds it, and idle if it has a tile that nobody holds. Not thread-safe.
class TileSlots {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  enum class State : uint8_t { kEmpty, kReading, kTile, kFailed };
  struct Slot {
    uint32_t content = kNone;  // also while it is being read
    uint32_t users = 0;
    State state = State::kEmpty;
    bool guessed = false;    // read for a guess, and not used so far
    bool was_guess = false;  // the read under way was begun for a guess
  };

  // The first `size` of `most` slots are used, for which the policy was made.
  TileSlots(int64_t size, int64_t most, int64_t contents, std::unique_ptr<CachePolicy> policy);

  int64_t size() const { return size_; }
  // From now on the first `size` are used. Tiles in slots beyond them go when nobody holds them.
  void Resize(int64_t size);
  int64_t beyond() const { return beyond_; }  // slots beyond the size that hold a tile or are being read into
  bool Beyond(uint32_t slot) const { return static_cast<int64_t>(slot) >= size_; }
  // Slots are filled from the first on: how many ever were, of those that are used.
  int64_t ever_filled() const { return std::min(ever_filled_, size_); }
  int64_t evicted() const { return evicted_; }  // by Take and Prepare
  CachePolicy& policy() { return *policy_; }
  const CachePolicy& policy() const { return *policy_; }

  Slot& operator[](uint32_t slot) { return slots_[slot]; }
  uint32_t Find(uint32_t content) const { return slot_of_[content]; }  // kNone: it has none
  // How many slots Take can give.
  int64_t available() const { return static_cast<int64_t>(free_.size()) + idle_; }

  // Before so many calls of Take: empties as many slots as that needs and the policy gives up, and lets Take
  // give the slots side by side where those that are empty are, so that tiles which lie side by side in a
  // file can be read by one call.
  void Prepare(int64_t count);
  // A slot for a content that has none, to be read: an empty one, else an idle one that the policy gives up.
  // kNone if it finds none. Nobody holds it yet.
  uint32_t Take(uint32_t content);
  void Hold(uint32_t slot);
  void LetGo(uint32_t slot);
  void SetTile(uint32_t slot);  // what was being read is there
  // The tile is not there, or not what it should be: its content has no slot any more, and the slot is free
  // when the last of its users has let go of it.
  void Fail(uint32_t slot);
  void EvictIdle();  // all of them

 private:
  bool EvictVictim();  // false: the policy finds none
  void SetEmpty(uint32_t slot);
  void Evict(uint32_t slot);

  std::vector<Slot> slots_;
  std::vector<uint32_t> slot_of_;  // by content
  std::vector<uint32_t> free_;
  std::unique_ptr<CachePolicy> policy_;
  int64_t size_ = 0, beyond_ = 0;
  int64_t idle_ = 0;  // of those that are used: others do not stay when nobody holds them
  int64_t ever_filled_ = 0, evicted_ = 0;
};

}  // namespace omni
