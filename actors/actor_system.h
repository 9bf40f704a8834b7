// The threads that run actors: one system of a process, shared by all that has actors in it.
#pragma once

#include <memory>

#include <absl/status/statusor.h>

#include "actors/actor_loop.h"

namespace caf {
class actor_system;
}

namespace omni {

// One thread runs them all: it is worker 0 of whatever they compute with, so that they and the compute
// pool's helpers are as many threads as the pool was made for. Outlives everything that has actors in it.
class ActorSystem {
 public:
  // `loop`: where that thread waits; none: for messages only. It goes when the last actor has ended.
  // ResourceExhausted if the threads cannot be started.
  static absl::StatusOr<std::unique_ptr<ActorSystem>> Start(std::unique_ptr<ActorLoop> loop = nullptr);
  ~ActorSystem();  // waits for every actor to end

  caf::actor_system& system();

 private:
  struct Impl;
  explicit ActorSystem(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
