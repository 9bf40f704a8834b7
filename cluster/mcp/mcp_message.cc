#include "cluster/mcp/mcp_message.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/json.h"
#include "engine/base/quoted.h"

namespace omni {
namespace {

using Json = nlohmann::json;

McpError Invalid(const Json& id, const std::string& message) {
  return {McpError::kInvalidRequest, message, nullptr, id};
}

bool IsId(const Json& id) { return id.is_string() || id.is_number_integer(); }

}  // namespace

bool IsMcpHandshake(std::string_view version) {
  return std::find(std::begin(kMcpHandshakes), std::end(kMcpHandshakes), version) != std::end(kMcpHandshakes);
}

const Json* McpMessage::meta() const {
  const auto found = params.find("_meta");
  return found == params.end() || !found->is_object() ? nullptr : &*found;
}

std::optional<std::string> McpMessage::version() const {
  const Json* const all = meta();
  if (all == nullptr) return std::nullopt;
  const auto found = all->find(kMcpVersionKey);
  if (found == all->end()) return std::nullopt;
  return found->is_string() ? found->get<std::string>() : "";
}

const Json* McpMessage::progress_token() const {
  const Json* const all = meta();
  if (all == nullptr) return nullptr;
  const auto found = all->find("progressToken");
  return found == all->end() || !IsId(*found) ? nullptr : &*found;
}

Json McpError::ToJson() const {
  Json error = {{"code", static_cast<int>(code)}, {"message", message}};
  if (!data.is_null()) error["data"] = data;
  Json response = {{"jsonrpc", "2.0"}, {"error", std::move(error)}};
  // Of what was no request there is no id to give back.
  if (!id.is_null()) response["id"] = id;
  return response;
}

int McpError::http() const {
  switch (code) {
    case kMethodNotFound:
      return 404;
    case kInternal:
      return 500;
    case kBusy:
      return 429;
    default:
      return 400;
  }
}

std::variant<McpMessage, McpError> ReadMcp(std::string_view text) {
  absl::StatusOr<Json> json = ParseJson<Json>(text, kMcpJsonDepth);
  if (!json.ok()) return McpError{McpError::kParse, absl::StrCat("the message ", json.status().message())};
  if (json->is_array()) return Invalid(nullptr, "the message is a list; send one message at a time");
  if (!json->is_object()) return Invalid(nullptr, "the message is no JSON object");
  const Json id = json->contains("id") && IsId((*json)["id"]) ? (*json)["id"] : Json();
  if (!json->contains("jsonrpc") || (*json)["jsonrpc"] != "2.0") return Invalid(id, "jsonrpc is not \"2.0\"");
  McpMessage message;
  message.id = id;
  if (!json->contains("method")) {
    if (id.is_null() || !(json->contains("result") || json->contains("error")))
      return Invalid(id, "the message is neither a request nor a notification nor a response");
    message.kind = McpMessage::Kind::kResponse;
    return message;
  }
  if (!(*json)["method"].is_string()) return Invalid(id, "method is no text");
  message.method = (*json)["method"].get<std::string>();
  if (json->contains("id")) {
    if (id.is_null()) return Invalid(nullptr, "id is neither a text nor a whole number");
    message.kind = McpMessage::Kind::kRequest;
  }
  if (json->contains("params")) {
    Json& params = (*json)["params"];
    if (!params.is_object()) return McpError{McpError::kInvalidParams, "params is no object", nullptr, id};
    message.params = std::move(params);
  }
  return message;
}

std::optional<McpError> CheckMcpMeta(const McpMessage& request) {
  const auto wrong = [&](const std::string& what) {
    return McpError{McpError::kInvalidParams, absl::StrCat("params._meta ", what), nullptr, request.id};
  };
  const Json* const meta = request.meta();
  if (meta == nullptr) return wrong("is no object; each request says there what it is of");
  const std::optional<std::string> version = request.version();
  if (!version.has_value() || version->empty()) return wrong(absl::StrCat("has no text ", kMcpVersionKey));
  if (*version != kMcpStateless) {
    return McpError{McpError::kUnsupportedVersion,
                    absl::StrCat("the protocol's version ", Quoted(*version), " is not spoken here"),
                    Json{{"supported", Json::array({kMcpStateless})}, {"requested", *version}}, request.id};
  }
  const auto capabilities = meta->find(kMcpCapabilitiesKey);
  if (capabilities == meta->end() || !capabilities->is_object())
    return wrong(absl::StrCat("has no object ", kMcpCapabilitiesKey));
  return std::nullopt;
}

Json McpResult(const Json& id, Json result) {
  return {{"jsonrpc", "2.0"}, {"id", id}, {"result", std::move(result)}};
}

}  // namespace omni
