// omni.inference.v1.Inference over the swarm of this process: answers whole and as streams of tokens, each
// kept in the session log before it is shown, so that a client can take its answer up again after any
// failure; and sessions that are saved and gone on with.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <absl/status/status.h>

#include "actors/counters.h"
#include "cluster/access.h"
#include "cluster/caller_limits.h"
#include "cluster/inference_backend.h"
#include "cluster/saved_sessions.h"
#include "cluster/session_log.h"
#include "engine/model/config.h"

namespace grpc {
class Service;
}

namespace omni {

struct InferenceCounters {
  Counter streams, resumed, tokens, log_errors, forgotten;
  Counter sessions_saved, sessions_resumed;  // resumed: gone on with
  Counter states_found;                      // of those, whose state was in memory
};

struct InferenceOptions {
  // For how long an answer can be taken up again after its client was last there.
  std::chrono::milliseconds keep = std::chrono::minutes(10);
  Access* access = nullptr;                // says who calls; null: nobody in particular
  std::shared_ptr<CallerLimits> limits;    // of each caller; null: none
  int64_t most_tokens = int64_t{1} << 40;  // of one answer, that a client may ask for
  std::string model_name = "omni";
  ModelConfig model;
  int64_t state_bytes = 0;   // of memory for the states of saved sessions; 0: none is kept
  bool log_requests = true;  // a line of the log for each, at the level info
};

class InferenceService {
 public:
  using Backend = InferenceBackend;

  // `backend` and access outlive it, `log` and `saved` their last callbacks.
  InferenceService(InferenceOptions options, Backend& backend, SessionLog& log, SavedSessions& saved);
  ~InferenceService();  // after its server has been shut down

  grpc::Service* service();
  // To be called now and then as long as this process leads: forgets what has been kept for long enough.
  // Thread-safe.
  void Tick();
  // Ends all streams with the status; those that were named can be taken up again.
  void EndAll(absl::Status status);
  // Waits until no answer is under way, but no longer than `most`: whether none is.
  bool WaitForNone(std::chrono::milliseconds most);
  const InferenceCounters& counters() const;

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
