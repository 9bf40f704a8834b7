// The Model Context Protocol's server, whatever its messages come by: answers requests of both eras, and lets
// tools be called on threads of their own.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "cluster/mcp/mcp_backend.h"
#include "cluster/mcp/mcp_message.h"

namespace omni {

struct McpServerOptions {
  std::string version;     // of the program
  size_t most_calls = 64;  // of tools, at one time
};

// Thread-safe.
class McpServer {
 public:
  // The backend outlives it.
  McpServer(McpBackend& backend, McpServerOptions options);
  ~McpServer();  // stops the calls that are under way, and waits for them

  // A request's notifications, and its response, which is the last. From any thread, one at a time; not in
  // the midst of its handle's destruction, and not after that.
  using Tell = std::function<void(const nlohmann::json& message, bool last)>;
  // A call that is under way: who lets it go stops it.
  using Call = std::shared_ptr<void>;
  // `stateless`: of the era in which each request says its version. Null: it has been answered.
  Call Answer(const McpMessage& request, bool stateless, const McpAsker& asker, Tell tell);

  // Calls that are under way end with what they have, and no others begin.
  void StopCalls();

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace omni
