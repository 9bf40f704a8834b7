// The tools that the Model Context Protocol's server offers: what they are called, what they take, and doing
// it.
#pragma once

#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "cluster/access_keys.h"
#include "cluster/mcp/mcp_backend.h"

namespace omni {

struct McpTool {
  std::string name;
  Scope scope;            // that its caller needs
  nlohmann::json listed;  // as of tools/list
};
const std::vector<McpTool>& McpTools();
const McpTool* FindMcpTool(const std::string& name);  // null: there is none

struct McpToolAnswer {
  nlohmann::json structured = nullptr;  // an object; null: what went wrong is in the text
  std::string text;                     // the same for people
  bool failed = false;
};
// How far it is: a number that grows, the whole if it is known (else 0), and a text.
using McpProgress = std::function<void(double progress, double total, const std::string& text)>;

// Does what a tool does; waits. Whatever is wrong with the arguments, or goes wrong, is an answer that says
// so.
McpToolAnswer DoMcpTool(McpBackend& backend, const McpAsker& asker, const McpTool& tool,
                        const nlohmann::json& arguments, const McpProgress& progress,
                        const std::stop_token& stop);

}  // namespace omni
