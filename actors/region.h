// The actor of one block of the torus: answers RegionRequestPtr with RegionReplyPtr. While experts of a
// request come from disk it serves other messages; it never waits.
#pragma once

#include <condition_variable>
#include <mutex>

#include "actors/messages.h"
#include "actors/region_state.h"

namespace omni {

// Actors that have not ended, and requests to the expert source whose answers are still to come: all that may
// still use what a swarm is made of. Thread-safe.
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

// Everything `state` refers to outlives the actor, and so does `outstanding`, to which its spawner has added
// it. An exception while serving ends the actor with sec::runtime_error; whoever monitors it starts another.
RegionActor::behavior_type Region(RegionActor::pointer self, RegionState state, Outstanding* outstanding);

}  // namespace omni
