// OpenAI's APIs that ask the model: completions and chats.
#pragma once

#include "cluster/http/generation_call.h"
#include "cluster/http/http_routes.h"

namespace omni {

// /v1/completions and /v1/chat/completions; `context` outlives the routes.
void AddCompletionRoutes(const GenerationContext& context, HttpRoutes& routes);

}  // namespace omni
