// The memory over HTTP: small JSON for whoever has no gRPC.
//
//   POST /v1/memory         {"scope", "key", "value"} or {"scope", "associations": [{"key", "value"}, ...]}
//   POST /v1/memory/ask     {"scope", "key"}
//   POST /v1/memory/forget  {"scope", "key"} or {"scope", "all": true}
//   GET  /v1/memory
#pragma once

#include "cluster/http/http_routes.h"
#include "cluster/memory_service.h"

namespace omni {

class MemoryDoor final : public HttpExtension {
 public:
  // `deeds` outlive the door, and it the server of its routes.
  explicit MemoryDoor(MemoryDeeds& deeds) : deeds_(deeds) {}

  void AddRoutes(HttpRoutes& routes, const HttpDoorFacts& door) override;
  void EndAll(const absl::Status&) override {}  // nothing of it takes long

 private:
  MemoryDeeds& deeds_;
};

}  // namespace omni
