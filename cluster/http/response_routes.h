// OpenAI's API of responses.
#pragma once

#include "cluster/http/generation_call.h"
#include "cluster/http/http_routes.h"
#include "cluster/http/response_store.h"

namespace omni {

// /v1/responses and /v1/responses/ID; both outlive the routes.
void AddResponseRoutes(const GenerationContext& context, ResponseStore& store, HttpRoutes& routes);

}  // namespace omni
