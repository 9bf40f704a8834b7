// A loaded model being served: one coordinator, one actor per region of the torus, and a plain C++ door to
// them.
//
//     auto swarm = Swarm::Start(*actors, weights, experts, tokenizer, {});
//     auto result = (*swarm)->Generate(request, [](const GenerateEvent& e) { return Print(e.text); });
//
// The actor system's one thread runs all actors and is worker 0 of the compute pool; the other threads are
// its helpers, so that `threads` threads compute and nothing else competes with them. An idle swarm sleeps.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <vector>

#include <absl/status/statusor.h>

#include "actors/actor_system.h"
#include "actors/coordinator_state.h"
#include "actors/generate.h"
#include "actors/region_link.h"
#include "actors/session_channel.h"
#include "actors/session_snapshot.h"
#include "engine/decode/choose_decoder.h"
#include "engine/decode/device_expert_runner.h"
#include "engine/model/weights.h"
#include "engine/text/tokenizer.h"

namespace omni {

struct SwarmOptions {
  int threads = 0;  // 0: as many as this process may use cores
  // Tokens of a session, prompt and answer; its memory does not depend on it.
  int64_t max_context = 1'000'000;
  int64_t unread_tokens = 256;     // a client so far behind pauses its session
  CoordinatorOptions coordinator;  // what it says of stages comes after the swarm's own
  // Where requests' polytopes come from; outlives the swarm. Null: there are none.
  PolytopeSource* polytopes = nullptr;
  MemorySource* memories = nullptr;   // the same of requests' memories of texts
  AdapterSource* adapters = nullptr;  // the same of requests' adapters
  LinkFactory make_link;              // empty: every region is an actor of this process
  DeviceChoice device;                // what computes all but experts that are outside
  ExpertRunner* runner = nullptr;     // computes the experts of this process's regions; it outlives the swarm
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
  int64_t sessions = 0, restarts = 0, retries = 0, timeouts = 0, moves = 0, failed_jobs = 0;
  int64_t safety_tokens = 0, safety_projected = 0, context_tokens = 0, context_recalled = 0;
  int64_t memory_asked = 0, memory_recalled = 0;
  int64_t adapter_tokens = 0;           // drawn with one
  int64_t prompt_rows = 0, tokens = 0;  // rows of prompts computed; tokens drawn
  int64_t predicted[2] = {},
          predicted_right[2] = {};  // rows whose expert was guessed 1 and 2 expert layers ahead
  int64_t experts = 0;
  std::vector<int64_t> expert_rows;   // [layers, experts]: rows routed since the start
  std::vector<int64_t> last_experts;  // [layers]: that was asked last; -1: none yet
  std::vector<int64_t> region_requests, region_compute_ns;
  int threads = 0;
  int64_t recoveries = 0;              // steps begun again since the device was lost
  std::optional<DeviceReport> device;  // nothing: there is none
  std::optional<ExpertRunnerReport> runner;
};

// A session under way. One thread at a time. May outlive its swarm, which ends the session.
class SessionHandle {
 public:
  ~SessionHandle();  // cancels the session; SubmitOptions::notify is not called any more
  SessionHandle(const SessionHandle&) = delete;
  SessionHandle& operator=(const SessionHandle&) = delete;

  // Of a session that is no swarm's of this process: its news come by `channel`. `resume` is called when a
  // full channel has been emptied, `cancel` when the client wants no more; both on the handle's thread.
  static std::unique_ptr<SessionHandle> OfAnother(std::shared_ptr<SessionChannel> channel,
                                                  std::function<void()> resume, std::function<void()> cancel);

  SessionId id() const;
  // What has happened since the last call; never waits. Once `result` is set there will be nothing more.
  SessionChannel::Taken Poll();
  // The same, but waits for something to happen, or for `stop`.
  SessionChannel::Taken Wait(const std::stop_token& stop = {});
  void Cancel();  // the end comes as a result

 private:
  friend class Swarm;
  struct Impl;
  explicit SessionHandle(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

struct SubmitOptions {
  SnapshotPtr
      from;  // what the session goes on from: the request's prompt, which may be empty, comes after it
  // Called on the swarm's thread when there is something for Poll; then not again before Poll was called. It
  // hands the news on and does not wait, and does not touch the handle. Empty: for Wait.
  std::function<void()> notify;
};

class Swarm {
 public:
  // All references outlive the swarm. Errors: InvalidArgument (the options), ResourceExhausted (threads,
  // memory), ChooseDecoder's.
  static absl::StatusOr<std::unique_ptr<Swarm>> Start(ActorSystem& actors, const ModelWeights& weights,
                                                      ExpertSource& experts, const Tokenizer& tokenizer,
                                                      const SwarmOptions& options);
  // Cancels what runs, waits for every Generate to return and for its actors to end.
  ~Swarm();
  Swarm(const Swarm&) = delete;
  Swarm& operator=(const Swarm&) = delete;

  // Blocks the calling thread until the session ends; any number of threads may call at once. `on_event` may
  // be null; if it throws, the session is cancelled and an error returned. Errors: InvalidArgument (the
  // request), ResourceExhausted (too many waiting, no memory for its state), Unavailable (a region failed for
  // good, shutting down), or what the expert source said.
  absl::StatusOr<GenerateResult> Generate(GenerateRequest request, const GenerateCallback& on_event,
                                          SnapshotPtr from = nullptr);

  // Returns at once; what is wrong with the request is said here, all else by the handle.
  absl::StatusOr<std::unique_ptr<SessionHandle>> Submit(GenerateRequest request, SubmitOptions options = {});

  // An active session as it is between two steps, its state copied; the session goes on. Waits for the
  // present step.
  absl::StatusOr<SnapshotPtr> Snapshot(SessionId session);

  SwarmStats Stats() const;  // thread-safe
  const SwarmOptions& options() const;

 private:
  struct Impl;
  explicit Swarm(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
