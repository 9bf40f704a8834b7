// The actor of one block of the torus: answers RegionJobPtr with RegionReplyPtr. While experts of a job come
// from disk it serves other messages; it never waits.
#pragma once

#include <condition_variable>
#include <mutex>

#include <caf/all.hpp>

#include "actors/region_state.h"

namespace omni {

// Requests to the expert source whose answers are still to come. The actor system must outlive them: an
// answer is a message to a region.
class OpenRequests {
 public:
  void Add() {
    std::lock_guard lock(mutex_);
    ++open_;
  }
  void Remove() {
    std::lock_guard lock(mutex_);
    if (--open_ == 0) none_.notify_all();
  }
  void WaitForNone() {
    std::unique_lock lock(mutex_);
    none_.wait(lock, [this] { return open_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable none_;
  int64_t open_ = 0;
};

// Everything `state` refers to outlives the actor, and so does `requests`. An exception while serving ends
// the actor with sec::runtime_error; whoever monitors it starts another.
caf::behavior Region(caf::event_based_actor* self, RegionState state, OpenRequests* requests);

}  // namespace omni
