#include "cluster/http/response_routes.h"

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "cluster/http/openai_answer.h"
#include "cluster/http/response_answer.h"
#include "cluster/http/response_request.h"

namespace omni {
namespace {

absl::StatusOr<Asked> Read(const RoutedRequest& asked, const std::string& id, const ServedModel& model,
                           ResponseStore& store) {
  const std::string& caller = asked.caller;
  const auto find = [&](const std::string& previous) -> std::shared_ptr<const std::vector<ChatMessage>> {
    const std::shared_ptr<const StoredResponse> stored = store.Find(caller, previous);
    return stored == nullptr ? nullptr
                             : std::shared_ptr<const std::vector<ChatMessage>>(stored, &stored->messages);
  };
  absl::StatusOr<ResponseRequest> request =
      ReadResponse(asked.http.body, model, std::random_device()(), find);
  if (!request.ok()) return request.status();
  ResponseHead head;
  head.id = id;
  head.message_id = NewAnswerId("msg_");
  head.model = model.name;
  head.created = SecondsSince1970();
  head.store = request->store;
  head.logprobs = request->logprobs;
  head.bounded = request->bounded;
  head.echo = std::move(request->echo);
  ResponseAnswer::Finished finished;
  if (request->store) {
    finished = [&store, caller, id, messages = std::move(request->messages)](
                   const std::string& json, const std::string& text) mutable {
      messages.push_back({"assistant", text});
      store.Put(caller, id, {json, std::move(messages)});
    };
  }
  Asked out;
  out.stream = request->stream;
  out.tokens = request->logprobs;
  out.said_again = true;
  out.prompt_tokens = static_cast<int64_t>(request->generate.prompt.size());
  out.choices.push_back(std::move(request->generate));
  out.form = std::make_unique<ResponseAnswer>(std::move(head), std::move(finished));
  return out;
}

}  // namespace

void AddResponseRoutes(const GenerationContext& context, ResponseStore& store, HttpRoutes& routes) {
  routes.Work("/v1/responses",
              [&context, &store](RoutedRequest request, std::shared_ptr<HttpExchange> exchange) {
                const std::string id = NewAnswerId("resp_");
                const auto read = [&store, &model = *context.model, id](const RoutedRequest& asked) {
                  return Read(asked, id, model, store);
                };
                return StartGeneration(context, std::move(request), read, std::move(exchange));
              });
  routes.Page("GET", "/v1/responses/*", [&store](const RoutedRequest& request) {
    const auto stored = store.Find(request.caller, request.argument);
    if (stored == nullptr) return ErrorAnswer(NoSuchResponse("", request.argument));
    if (request.http.query.find("stream=true") != std::string::npos)
      return ErrorAnswer(400, "a stored response is not streamed again: leave out 'stream'");
    HttpAnswer answer;
    answer.body = stored->json;
    return answer;
  });
  routes.Page("DELETE", "/v1/responses/*", [&store](const RoutedRequest& request) {
    if (!store.Remove(request.caller, request.argument))
      return ErrorAnswer(NoSuchResponse("", request.argument));
    HttpAnswer answer;
    answer.body = JsonText(nlohmann::json{
                      {"id", request.argument}, {"object", "response.deleted"}, {"deleted", true}}) +
                  "\n";
    return answer;
  });
}

}  // namespace omni
