// One answer of the model on its way to an HTTP client.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "cluster/executor.h"
#include "cluster/http/http_metrics.h"
#include "cluster/http/http_server.h"
#include "cluster/http/openai_request.h"
#include "cluster/inference_backend.h"

namespace omni {

// What every answer is made with; outlives the calls.
struct GenerationContext {
  InferenceBackend* backend = nullptr;
  const ServedModel* model = nullptr;
  HttpMetrics* metrics = nullptr;
  Executor* readers =
      nullptr;  // where requests are read, so that a long one does not keep the others waiting
};

// Reads the body, asks the swarm and answers. What fails before the first token is an error with a status of
// its own; a stream's head is sent with the first token, or earlier if that is long in coming. When the call
// is destroyed its session is cancelled.
std::shared_ptr<HttpCall> StartGeneration(const GenerationContext& context, bool chat, std::string body,
                                          std::string id, std::shared_ptr<HttpExchange> exchange);

}  // namespace omni
