// Model states of saved sessions, so that going on with one need not compute it again. What is not here is
// computed from its tokens, to the same bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <list>
#include <mutex>
#include <string>
#include <utility>

#include "actors/session_snapshot.h"

namespace omni {

// The states used last that fit `most_bytes` together. Thread-safe.
class SessionStates {
 public:
  explicit SessionStates(int64_t most_bytes) : most_bytes_(most_bytes) {}

  bool keeps_any() const { return most_bytes_ > 0; }
  // Null: it is not here, or of another revision.
  SnapshotPtr Find(const std::string& id, uint64_t revision) {
    std::lock_guard lock(mutex_);
    const auto found = At(id);
    if (found == entries_.end() || found->revision != revision) return nullptr;
    entries_.splice(entries_.begin(), entries_, found);
    return entries_.front().state;
  }
  void Put(const std::string& id, uint64_t revision, SnapshotPtr state) {
    if (state == nullptr) return;
    int64_t bytes = state->state.bytes() + static_cast<int64_t>(state->tokens.size() * sizeof(TokenId));
    if (state->contexts != nullptr) bytes += state->contexts->bytes();
    std::lock_guard lock(mutex_);
    Erase(At(id));
    if (bytes > most_bytes_) return;
    entries_.push_front({id, revision, std::move(state), bytes});
    bytes_ += bytes;
    while (bytes_ > most_bytes_) Erase(std::prev(entries_.end()));
  }
  void Forget(const std::string& id) {
    std::lock_guard lock(mutex_);
    Erase(At(id));
  }
  int64_t bytes() const {
    std::lock_guard lock(mutex_);
    return bytes_;
  }

 private:
  struct Entry {
    std::string id;
    uint64_t revision;
    SnapshotPtr state;
    int64_t bytes;
  };
  using Entries = std::list<Entry>;  // the one used last first

  Entries::iterator At(const std::string& id) {
    return std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.id == id; });
  }
  void Erase(Entries::iterator entry) {
    if (entry == entries_.end()) return;
    bytes_ -= entry->bytes;
    entries_.erase(entry);
  }

  const int64_t most_bytes_;
  mutable std::mutex mutex_;
  Entries entries_;
  int64_t bytes_ = 0;
};

}  // namespace omni
