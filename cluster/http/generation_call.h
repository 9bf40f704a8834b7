// One answer of the model on its way to an HTTP client.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "cluster/fair_executor.h"
#include "cluster/http/answer_form.h"
#include "cluster/http/http_metrics.h"
#include "cluster/http/http_routes.h"
#include "cluster/http/openai_request.h"
#include "cluster/inference_backend.h"

namespace omni {

// What every answer is made with; outlives the calls.
struct GenerationContext {
  InferenceBackend* backend = nullptr;
  const ServedModel* model = nullptr;
  HttpMetrics* metrics = nullptr;
  // Where requests are read and long answers put into words, so that neither keeps the others waiting.
  FairExecutor* readers = nullptr;
};

// What a client asks for, once its request has been read.
struct Asked {
  bool stream = false;
  bool tokens = false;                   // the form is given each token
  bool said_again = false;               // and of a stream the end says all of its choice once more
  std::vector<GenerateRequest> choices;  // at least one
  int64_t prompt_tokens = 0;             // of the usage
  std::shared_ptr<AnswerForm> form;
  HeldMemory memory;  // that the choices ask for; filled in by StartGeneration
};
// On the readers' thread, once.
using ReadAsked = std::function<absl::StatusOr<Asked>(const RoutedRequest& request)>;

// Reads the request, asks the swarm and answers: all choices at once as long as they are not many, else some
// after the others. What fails before the first token is an error with a status of its own; a stream's head
// is sent with the first token, or earlier if that is long in coming. When the call is destroyed its sessions
// are cancelled.
std::shared_ptr<HttpCall> StartGeneration(const GenerationContext& context, RoutedRequest request,
                                          ReadAsked read, std::shared_ptr<HttpExchange> exchange);

}  // namespace omni
