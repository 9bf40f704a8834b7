// What stands between a store's thread and one watcher's callback.
#pragma once

#include <atomic>
#include <mutex>
#include <thread>
#include <utility>

#include "cluster/coordination.h"

namespace omni {

// Shared by the store, which tells, and the watcher, which may end that at any time.
class WatchDelivery {
 public:
  using Callback = CoordinationStore::Callback<Changes>;

  explicit WatchDelivery(Callback on_changes) : on_changes_(std::move(on_changes)) {}

  // For the store's one thread. Nothing once it is closed; an error closes it.
  void Tell(absl::StatusOr<Changes> changes) {
    const std::lock_guard lock(telling_);
    if (closed_) return;
    if (!changes.ok()) closed_ = true;
    teller_ = std::this_thread::get_id();
    on_changes_(std::move(changes));
    teller_ = std::thread::id();
  }

  // Afterwards nothing is told. Waits for a callback that is running, unless called by it.
  void Close() {
    if (teller_ == std::this_thread::get_id()) {
      closed_ = true;
      return;
    }
    const std::lock_guard lock(telling_);
    closed_ = true;
  }

  bool closed() const { return closed_; }

 private:
  const Callback on_changes_;
  std::mutex telling_;
  std::atomic<bool> closed_ = false;
  std::atomic<std::thread::id> teller_;  // in the callback
};

}  // namespace omni
