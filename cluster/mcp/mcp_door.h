// The Model Context Protocol on an HTTP door, at /mcp: its transport Streamable HTTP, in both eras. A request
// is answered with one JSON object, or with a stream of events where it has something to tell before that.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "cluster/http/http_routes.h"
#include "cluster/mcp/mcp_backend.h"

namespace omni {

struct McpDoorOptions {
  std::string version;                                 // of the program
  size_t most_calls = 64;                              // of tools, at one time
  size_t most_sessions = 10'000, own_sessions = 1000;  // in all, and of one caller: beyond them the oldest go
  std::chrono::seconds idle{3600};                     // a session that nobody used for so long is gone
  std::function<std::chrono::steady_clock::time_point()> now = std::chrono::steady_clock::now;
};

class McpDoor final : public HttpExtension {
 public:
  // The backend outlives it.
  McpDoor(McpBackend& backend, McpDoorOptions options);
  ~McpDoor() override;  // after the server of its routes; waits for calls

  void AddRoutes(HttpRoutes& routes, const HttpDoorFacts& door) override;
  void EndAll(const absl::Status& status) override;

 private:
  struct Impl;
  const std::shared_ptr<Impl> impl_;
};

}  // namespace omni
