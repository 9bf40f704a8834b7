// omni.inference.v1.Inference over the swarm of this process: streams of tokens, each kept in the session log
// before it is shown, so that a client can take its answer up again after any failure.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <absl/status/status.h>

#include "actors/counters.h"
#include "cluster/executor.h"
#include "cluster/inference_backend.h"
#include "cluster/session_log.h"

namespace grpc {
class Service;
}

namespace omni {

struct InferenceCounters {
  Counter streams, resumed, tokens, log_errors, forgotten;
};

struct InferenceOptions {
  // For how long an answer can be taken up again after its client was last there.
  std::chrono::milliseconds keep = std::chrono::minutes(10);
};

class InferenceService {
 public:
  using Backend = InferenceBackend;

  // `backend` outlives it, and `log` its last callback.
  InferenceService(InferenceOptions options, Backend& backend, SessionLog& log);
  ~InferenceService();  // after its server has been shut down

  grpc::Service* service();
  // To be called now and then as long as this process leads: forgets what has been kept for long enough.
  // Thread-safe.
  void Tick();
  // Ends all streams with the status; those that were named can be taken up again.
  void EndAll(absl::Status status);
  const InferenceCounters& counters() const;

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
