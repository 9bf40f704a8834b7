// The threads that run actors: one system of a process, shared by all that has actors in it.
#pragma once

#include <memory>

#include <absl/status/statusor.h>

namespace caf {
class actor_system;
}

namespace omni {

// One scheduler thread: it is worker 0 of whatever its actors compute with, so that they and the compute
// pool's helpers are as many threads as the pool was made for. Outlives everything that has actors in it.
class ActorSystem {
 public:
  // ResourceExhausted if its threads cannot be started.
  static absl::StatusOr<std::unique_ptr<ActorSystem>> Start();
  ~ActorSystem();  // waits for every actor to end

  caf::actor_system& system();

 private:
  struct Impl;
  explicit ActorSystem(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
