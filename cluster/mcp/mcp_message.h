// The Model Context Protocol's messages: JSON-RPC 2.0, one at a time. Two eras are spoken: up to 2025-11-25 a
// peer introduces itself once, with initialize; since 2026-07-28 each request says in params._meta what it is
// of. Nothing here waits.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include <nlohmann/json.hpp>

namespace omni {

inline constexpr char kMcpStateless[] = "2026-07-28";  // each request says its version
inline constexpr const char* kMcpHandshakes[] = {"2025-11-25", "2025-06-18"};  // the latest first
bool IsMcpHandshake(std::string_view version);

// Members of params._meta and of a result's.
inline constexpr char kMcpVersionKey[] = "io.modelcontextprotocol/protocolVersion";
inline constexpr char kMcpCapabilitiesKey[] = "io.modelcontextprotocol/clientCapabilities";
inline constexpr char kMcpServerKey[] = "io.modelcontextprotocol/serverInfo";

struct McpMessage {
  enum class Kind { kRequest, kNotification, kResponse };
  Kind kind = Kind::kNotification;
  nlohmann::json id;  // of a request: a text or a whole number
  std::string method;
  nlohmann::json params = nlohmann::json::object();  // always an object

  const nlohmann::json* meta() const;            // params._meta; null: there is none
  std::optional<std::string> version() const;    // what _meta says; nothing: nothing
  const nlohmann::json* progress_token() const;  // null: no progress is to be told
};

// What a request is told that is not answered.
struct McpError {
  enum Code {
    kParse = -32700,
    kInvalidRequest = -32600,
    kMethodNotFound = -32601,
    kInvalidParams = -32602,
    kInternal = -32603,
    kBusy = -32000,                // too many calls at present
    kHeaderMismatch = -32020,      // of HTTP: a header does not say what the body does
    kUnsupportedVersion = -32022,  // data: {supported, requested}
  };
  Code code = kInternal;
  std::string message;
  nlohmann::json data = nullptr;
  nlohmann::json id = nullptr;  // of the request, where it could be read

  nlohmann::json ToJson() const;  // the response
  int http() const;               // its status over HTTP
};

// At most `kMcpJsonDepth` levels.
inline constexpr size_t kMcpJsonDepth = 32;
std::variant<McpMessage, McpError> ReadMcp(std::string_view text);

// Of a request that says its version, or has to: whether it says all that it must, and the version is known.
std::optional<McpError> CheckMcpMeta(const McpMessage& request);

nlohmann::json McpResult(const nlohmann::json& id, nlohmann::json result);

}  // namespace omni
