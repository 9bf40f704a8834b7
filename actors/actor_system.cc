#include "actors/actor_system.h"

#include <chrono>
#include <exception>
#include <utility>

#include <absl/strings/str_cat.h>
#include <caf/all.hpp>

#include "engine/base/threads.h"

namespace omni {
namespace {

constexpr int kThreads = 4;  // the scheduler's one, the clock, the printer; one more to be safe

}  // namespace

struct ActorSystem::Impl {
  static caf::actor_system_config& Configure(caf::actor_system_config& config) {
    config.set("scheduler.max-threads", 1);
    // One worker has nobody to steal from: after a short watch over its queue (the time in which a client
    // may come back) it sleeps until a message arrives. Not by short naps in between: who is woken from one
    // is 50 us late and more, and a round trip to another node has several such wakes (500 us, not 270).
    config.set("work-stealing.aggressive-poll-attempts", 100);
    config.set("work-stealing.moderate-poll-attempts", 0);
    config.set("work-stealing.moderate-sleep-duration", caf::timespan(std::chrono::microseconds(50)));
    config.set("work-stealing.relaxed-sleep-duration", caf::timespan(std::chrono::seconds(1)));
    return config;
  }

  Impl() : system(Configure(config)) {}

  caf::actor_system_config config;
  caf::actor_system system;
};

ActorSystem::ActorSystem(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ActorSystem::~ActorSystem() = default;

absl::StatusOr<std::unique_ptr<ActorSystem>> ActorSystem::Start() {
  // Refused a thread, the actor system ends the process rather than throw.
  if (absl::Status s = CheckThreads(kThreads, "run actors"); !s.ok()) return s;
  try {
    return std::unique_ptr<ActorSystem>(new ActorSystem(std::make_unique<Impl>()));
  } catch (const std::exception& e) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the actors' threads cannot be started: ", e.what(),
                     "; raise the limit on processes (ulimit -u, or pids.max of the control group)"));
  }
}

caf::actor_system& ActorSystem::system() { return impl_->system; }

}  // namespace omni
