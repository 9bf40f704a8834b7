// Waiting for the end of what goes on by itself.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace omni {

// What has not ended yet and may still use what others are about to take away: actors, requests to the expert
// source, calls of a library that tells their end later. Thread-safe.
class Outstanding {
 public:
  void Add() {
    std::lock_guard lock(mutex_);
    ++count_;
  }
  void Remove() {
    std::lock_guard lock(mutex_);
    if (--count_ == 0) none_.notify_all();
  }
  void WaitForNone() {
    std::unique_lock lock(mutex_);
    none_.wait(lock, [this] { return count_ == 0; });
  }
  // In an actor's first moment: what its spawner has added counts until the actor has ended. (An actor that
  // is spawned may not have begun when its spawner goes on.)
  template <typename Self>
  void RemoveAtEndOf(Self* self) {
    self->attach_functor([this] { Remove(); });
  }

 private:
  std::mutex mutex_;
  std::condition_variable none_;
  int64_t count_ = 0;
};

}  // namespace omni
