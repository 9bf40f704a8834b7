#include "cluster/http/completion_routes.h"

#include <random>
#include <string>
#include <utility>

#include <absl/strings/str_format.h>

namespace omni {
namespace {

std::string NewId(const char* prefix) {
  std::random_device random;
  return absl::StrFormat("%s%08x%08x%08x", prefix, random(), random(), random());
}

}  // namespace

void AddCompletionRoutes(const GenerationContext& context, HttpRoutes& routes) {
  for (const bool chat : {true, false}) {
    routes.Work(chat ? "/v1/chat/completions" : "/v1/completions",
                [&context, chat](RoutedRequest request, std::shared_ptr<HttpExchange> exchange) {
                  return StartGeneration(context, chat, std::move(request.http.body),
                                         NewId(chat ? "chatcmpl-" : "cmpl-"), std::move(exchange));
                });
  }
}

}  // namespace omni
