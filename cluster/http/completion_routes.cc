#include "cluster/http/completion_routes.h"

#include <memory>
#include <random>
#include <string>
#include <utility>

#include "cluster/http/completion_answer.h"
#include "cluster/http/openai_answer.h"

namespace omni {

void AddCompletionRoutes(const GenerationContext& context, HttpRoutes& routes) {
  for (const bool chat : {true, false}) {
    const auto start = [&context, chat](RoutedRequest request, std::shared_ptr<HttpExchange> exchange) {
      const std::string id = NewAnswerId(chat ? "chatcmpl-" : "cmpl-");
      const auto read = [&model = *context.model, chat,
                         id](const RoutedRequest& asked) -> absl::StatusOr<Asked> {
        const uint64_t seed = std::random_device()();
        absl::StatusOr<CompletionRequest> request =
            chat ? ReadChat(asked.http.body, model, seed) : ReadCompletion(asked.http.body, model, seed);
        if (!request.ok()) return request.status();
        AnswerHead head;
        head.id = id;
        head.model = model.name;
        head.created = SecondsSince1970();
        head.chat = chat;
        head.include_usage = request->include_usage;
        head.logprobs = request->logprobs;
        head.choices = request->choices.size();
        head.echo = std::move(request->echo);
        Asked out;
        out.stream = request->stream;
        out.tokens = request->logprobs;
        out.choices = std::move(request->choices);
        out.prompt_tokens = request->prompt_tokens;
        out.form = std::make_unique<CompletionAnswer>(std::move(head));
        return out;
      };
      return StartGeneration(context, std::move(request), read, std::move(exchange));
    };
    routes.Work(chat ? "/v1/chat/completions" : "/v1/completions", start);
  }
}

}  // namespace omni
