// OpenAI's API of embeddings.
#pragma once

#include "cluster/http/generation_call.h"
#include "cluster/http/http_routes.h"

namespace omni {

// /v1/embeddings; `context` outlives the routes.
void AddEmbeddingRoutes(const GenerationContext& context, HttpRoutes& routes);

}  // namespace omni
