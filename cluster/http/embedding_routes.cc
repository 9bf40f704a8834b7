#include "cluster/http/embedding_routes.h"

#include <memory>
#include <string>
#include <utility>

#include "cluster/http/embeddings.h"
#include "cluster/http/openai_answer.h"

namespace omni {

void AddEmbeddingRoutes(const GenerationContext& context, HttpRoutes& routes) {
  routes.Work("/v1/embeddings", [&context](RoutedRequest request, std::shared_ptr<HttpExchange> exchange) {
    const auto read = [&model = *context.model](const RoutedRequest& asked) -> absl::StatusOr<Asked> {
      absl::StatusOr<EmbeddingsRequest> embeddings = ReadEmbeddings(asked.http.body, model);
      if (!embeddings.ok()) return embeddings.status();
      Asked out;
      out.choices = std::move(embeddings->texts);
      out.prompt_tokens = embeddings->prompt_tokens;
      out.form = std::make_unique<EmbeddingsAnswer>(model.name, embeddings->base64);
      return out;
    };
    return StartGeneration(context, std::move(request), read, std::move(exchange));
  });
}

}  // namespace omni
