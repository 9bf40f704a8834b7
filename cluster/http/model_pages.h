// What clients may know of the model that is served.
#pragma once

#include <cstdint>

#include "cluster/http/http_routes.h"
#include "cluster/http/openai_request.h"
#include "cluster/inference_backend.h"

namespace omni {

struct ModelPages {
  const ServedModel* model = nullptr;  // outlives the routes
  std::string model_hash;
  int64_t slots = 0;    // sessions that are stepped together
  int64_t created = 0;  // seconds since 1970
  InferenceBackend* backend = nullptr;
};
// /v1/models, /v1/models/NAME, /v1/adapters and /props.
void AddModelPages(const ModelPages& pages, HttpRoutes& routes);

}  // namespace omni
