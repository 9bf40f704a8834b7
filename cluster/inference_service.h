// omni.inference.v1.Inference over the swarm of this process: streams of tokens, each kept in the session log
// before it is shown, so that a client can take its answer up again after any failure.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/counters.h"
#include "actors/swarm.h"
#include "cluster/executor.h"
#include "cluster/session_log.h"
#include "engine/text/tokenizer.h"

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
  // What the service asks of the process. Thread-safe.
  class Backend {
   public:
    virtual ~Backend() = default;
    // Whether answers may be given here; Unavailable says where.
    virtual absl::Status Serving() = 0;
    virtual std::string Elsewhere() = 0;  // the coordinator's address; empty: not known
    virtual absl::StatusOr<std::unique_ptr<SessionHandle>> Submit(GenerateRequest request,
                                                                  SubmitOptions options) = 0;
    virtual const Tokenizer& tokenizer() = 0;
    virtual int64_t max_context() = 0;  // tokens of prompt and answer together
    virtual std::string model_hash() = 0;
    virtual std::string node() = 0;
  };

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
