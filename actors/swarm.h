// A loaded model being served: one coordinator, one actor per region of the torus, and a plain C++ door to
// them.
//
//     auto swarm = Swarm::Start(dir->weights(), *dir, dir->tokenizer(), {});
//     auto result = (*swarm)->Generate(request, [](const GenerateEvent& e) { return Print(e.text); });
//
// One scheduler thread runs all actors and is worker 0 of the compute pool; the other threads are its
// helpers, so that `threads` threads compute and nothing else competes with them. An idle swarm sleeps.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include <absl/status/statusor.h>

#include "actors/coordinator_state.h"
#include "actors/generate.h"
#include "actors/region_state.h"
#include "engine/model/weights.h"
#include "engine/text/tokenizer.h"

namespace omni {

struct SwarmOptions {
  int threads = 0;  // 0: as many as the machine has cores
  int64_t max_context =
      1'000'000;                // tokens of a session, prompt and answer; its memory does not depend on it
  int64_t unread_tokens = 256;  // a client so far behind pauses its session
  CoordinatorOptions coordinator;
  RegionFaultHook fault;  // tests only
};

struct StepStats {
  int64_t steps = 0, rows = 0, hops = 0;
  std::chrono::nanoseconds wall{0}, compute{0};
  double ActorShare() const;  // of the wall time, what was not computation; 0 if nothing was measured
  double HopMicros() const;   // that time per message
};

struct SwarmStats {
  StepStats decode, mixed;  // steps that only decode; steps with prompt rows
  int64_t active = 0, queued = 0;
  int64_t sessions = 0, restarts = 0, retries = 0, timeouts = 0, failed_jobs = 0;
  int64_t predicted[2] = {},
          predicted_right[2] = {};  // rows whose expert was guessed 1 and 2 expert layers ahead
  int64_t experts = 0;
  std::vector<int64_t> expert_rows;  // [layers, experts]: rows routed since the start
  std::vector<int64_t> region_requests, region_compute_ns;
  int threads = 0;
};

class Swarm {
 public:
  // weights, experts and tokenizer outlive the swarm.
  static absl::StatusOr<std::unique_ptr<Swarm>> Start(const ModelWeights& weights, ExpertSource& experts,
                                                      const Tokenizer& tokenizer,
                                                      const SwarmOptions& options);
  // Cancels what runs, waits for every Generate to return and for every actor to end.
  ~Swarm();
  Swarm(const Swarm&) = delete;
  Swarm& operator=(const Swarm&) = delete;

  // Blocks the calling thread until the session ends; any number of threads may call at once. `on_event` may
  // be null. Errors: InvalidArgument (the request), ResourceExhausted (too many waiting), Unavailable (a
  // region failed for good, shutting down), or what the expert source said.
  absl::StatusOr<GenerateResult> Generate(GenerateRequest request, const GenerateCallback& on_event);

  SwarmStats Stats() const;  // thread-safe
  const SwarmOptions& options() const;

 private:
  struct Impl;
  explicit Swarm(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
