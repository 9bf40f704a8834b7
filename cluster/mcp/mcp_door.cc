#include "cluster/mcp/mcp_door.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include <absl/strings/ascii.h>
#include <absl/strings/escaping.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>

#include "cluster/host_port.h"
#include "cluster/http/json_answer.h"
#include "cluster/loopback.h"
#include "cluster/mcp/mcp_message.h"
#include "cluster/mcp/mcp_server.h"
#include "engine/base/json.h"
#include "engine/base/quoted.h"
#include "engine/base/random.h"

namespace omni {
namespace {

using Json = nlohmann::json;

constexpr char kPath[] = "/mcp", kSession[] = "mcp-session-id", kVersion[] = "mcp-protocol-version";

HttpAnswer Nothing(int status) {
  HttpAnswer answer;
  answer.status = status;
  answer.content_type.clear();
  return answer;
}
HttpAnswer Refusal(int status, const std::string& why, const Json& id = nullptr) {
  return JsonAnswer(McpError{McpError::kInvalidRequest, why, nullptr, id}.ToJson(), status);
}
HttpAnswer Refusal(const McpError& error) { return JsonAnswer(error.ToJson(), error.http()); }

// Of a response in the stateless era.
int StatusOf(const Json& response) {
  const auto error = response.find("error");
  if (error == response.end()) return 200;
  return McpError{static_cast<McpError::Code>((*error)["code"].get<int>()), "", nullptr, nullptr}.http();
}

bool TakesEvents(const HttpRequest& request) {
  return absl::StrContains(absl::AsciiStrToLower(request.Header("accept")), "text/event-stream");
}

// What a header says of a text that may have any characters: "=?base64?...?=", or the text itself.
std::optional<std::string> DecodedHeader(const std::string& value) {
  constexpr absl::string_view kBegin = "=?base64?", kEnd = "?=";
  if (!absl::StartsWith(value, kBegin) || !absl::EndsWith(value, kEnd) ||
      value.size() < kBegin.size() + kEnd.size())
    return value;
  std::string text;
  const std::string inner = value.substr(kBegin.size(), value.size() - kBegin.size() - kEnd.size());
  if (inner.size() % 4 != 0 || !absl::Base64Unescape(inner, &text)) return std::nullopt;
  return text;
}

// Whether the headers say what the body does, as whoever stands between reads them alone.
std::optional<McpError> CheckHeaders(const HttpRequest& http, const McpMessage& message) {
  const auto wrong = [&](const std::string& what) {
    return McpError{McpError::kHeaderMismatch, what, nullptr, message.id};
  };
  const std::optional<std::string> version = message.version();
  if (version.has_value() && http.Header(kVersion) != *version)
    return wrong("the header MCP-Protocol-Version does not say what params._meta does");
  if (http.Header("mcp-method") != message.method)
    return wrong(absl::StrCat("the header Mcp-Method does not say ", Quoted(message.method)));
  if (message.method != "tools/call") return std::nullopt;
  const auto name = message.params.find("name");
  if (name == message.params.end() || !name->is_string()) return std::nullopt;
  if (DecodedHeader(http.Header("mcp-name")) != name->get<std::string>()) {
    return wrong(
        absl::StrCat("the header Mcp-Name does not say ", Quoted(name->get_ref<const std::string&>())));
  }
  return std::nullopt;
}

// One request, from its answer's beginning on the server's thread.
class McpHttpCall final : public HttpCall, public std::enable_shared_from_this<McpHttpCall> {
 public:
  McpHttpCall(std::shared_ptr<HttpExchange> exchange, bool stateless, bool takes_events)
      : exchange_(std::move(exchange)), stateless_(stateless), takes_events_(takes_events) {}

  McpServer::Tell Tell() {
    return [exchange = exchange_, weak = weak_from_this()](const Json& message, bool last) {
      exchange->Post([weak, message, last] {
        if (const auto self = weak.lock()) self->Take(message, last);
      });
    };
  }
  void Hold(McpServer::Call call) { call_ = std::move(call); }
  // It was cancelled, and nobody waits for a response.
  void Cancel() {
    if (std::exchange(over_, true)) return;
    call_ = nullptr;
    begun_ ? exchange_->End() : exchange_->Answer(Nothing(202));
  }
  void OnQuiet() override {
    if (over_ || !takes_events_) return;
    Begin();
    exchange_->Write(": here\n\n");
  }

 private:
  void Begin() {
    if (std::exchange(begun_, true)) return;
    HttpAnswer head;
    head.content_type = "text/event-stream";
    head.headers.emplace_back("Cache-Control", "no-store");
    head.headers.emplace_back("X-Accel-Buffering", "no");
    exchange_->Begin(head);
  }
  void Take(const Json& message, bool last) {
    if (over_ || (!last && !takes_events_)) return;
    over_ = last;
    if (last && !begun_) {
      exchange_->Answer(JsonAnswer(message, stateless_ ? StatusOf(message) : 200));
    } else {
      Begin();
      exchange_->Write(absl::StrCat("event: message\ndata: ", JsonText(message), "\n\n"));
      if (last) exchange_->End();
    }
    if (last) call_ = nullptr;
  }

  const std::shared_ptr<HttpExchange> exchange_;
  const bool stateless_, takes_events_;
  McpServer::Call call_;
  bool begun_ = false, over_ = false;
};

}  // namespace

// All on the server's thread but EndAll.
struct McpDoor::Impl {
  Impl(McpBackend& backend, McpDoorOptions o)
      : options(std::move(o)), server(backend, {options.version, options.most_calls}) {}

  struct Session {
    std::string caller;
    std::chrono::steady_clock::time_point used;
    std::map<std::string, std::weak_ptr<McpHttpCall>> calls;  // by their ids
  };

  bool IsOwnOrigin(const HttpRequest& request) const {
    const std::string origin = request.Header("origin");
    if (origin.empty()) return true;
    if (std::find(origins.begin(), origins.end(), origin) != origins.end()) return true;
    const size_t scheme = origin.find("://");
    if (scheme == origin.npos) return false;
    const std::string host = origin.substr(scheme + 3);
    return IsLoopback(host) || host == request.Header("host");
  }
  std::string Open(const std::string& caller);
  // Null: there is none of the caller's under that id.
  Session* Find(const RoutedRequest& request) {
    const auto found = sessions.find(request.http.Header(kSession));
    if (found == sessions.end() || found->second.caller != request.caller) return nullptr;
    found->second.used = options.now();
    return &found->second;
  }
  std::shared_ptr<HttpCall> Post(RoutedRequest request, const std::shared_ptr<HttpExchange>& exchange);
  std::shared_ptr<HttpCall> Ask(RoutedRequest& request, const McpMessage& message, bool stateless,
                                Session* session, const std::shared_ptr<HttpExchange>& exchange);
  HttpAnswer Delete(const RoutedRequest& request);

  const McpDoorOptions options;
  std::vector<std::string> origins;
  std::atomic<bool> ended{false};
  std::map<std::string, Session> sessions;
  McpServer server;  // goes first
};

std::string McpDoor::Impl::Open(const std::string& caller) {
  const auto now = options.now();
  std::erase_if(sessions, [&](const auto& one) { return now - one.second.used > options.idle; });
  const auto own = [&](const auto& one) { return one.second.caller == caller; };
  const bool too_many =
      static_cast<size_t>(std::count_if(sessions.begin(), sessions.end(), own)) >= options.own_sessions;
  if (too_many || sessions.size() >= options.most_sessions) {
    auto oldest = sessions.end();
    for (auto it = sessions.begin(); it != sessions.end(); ++it) {
      if (too_many && it->second.caller != caller) continue;
      if (oldest == sessions.end() || it->second.used < oldest->second.used) oldest = it;
    }
    sessions.erase(oldest);
  }
  std::string id = RandomHex(32);
  sessions[id] = {caller, now, {}};
  return id;
}

std::shared_ptr<HttpCall> McpDoor::Impl::Ask(RoutedRequest& request, const McpMessage& message,
                                             bool stateless, Session* session,
                                             const std::shared_ptr<HttpExchange>& exchange) {
  const auto call = std::make_shared<McpHttpCall>(exchange, stateless, TakesEvents(request.http));
  if (session != nullptr) {
    std::erase_if(session->calls, [](const auto& one) { return one.second.expired(); });
    if (!session->calls.try_emplace(message.id.dump(), call).second) {
      exchange->Answer(Refusal(400, "a request with this id is under way", message.id));
      return nullptr;
    }
  }
  const McpAsker asker{std::move(request.caller), request.scopes, std::move(request.permit)};
  call->Hold(server.Answer(message, stateless, asker, call->Tell()));
  return call;
}

std::shared_ptr<HttpCall> McpDoor::Impl::Post(RoutedRequest request,
                                              const std::shared_ptr<HttpExchange>& exchange) {
  const auto refuse = [&](const HttpAnswer& answer) {
    exchange->Answer(answer);
    return nullptr;
  };
  if (!IsOwnOrigin(request.http)) {
    return refuse(Refusal(403, absl::StrCat("pages of ", Quoted(request.http.Header("origin")),
                                            " may not ask here; --cors-origin names those that may")));
  }
  if (ended) return refuse(Refusal(503, "the server is shutting down"));
  const std::variant<McpMessage, McpError> read = ReadMcp(request.http.body);
  if (const auto* error = std::get_if<McpError>(&read)) return refuse(Refusal(*error));
  const auto& message = std::get<McpMessage>(read);
  const std::string version = request.http.Header(kVersion);
  const bool is_request = message.kind == McpMessage::Kind::kRequest;

  if (message.version().has_value() || version == kMcpStateless) {
    if (!is_request) return refuse(Nothing(202));  // who wants an answer no more ends its stream
    // What the body lacks is said before what the headers do.
    if (!message.version().has_value()) return refuse(Refusal(*CheckMcpMeta(message)));
    if (const std::optional<McpError> wrong = CheckHeaders(request.http, message); wrong.has_value())
      return refuse(Refusal(*wrong));
    return Ask(request, message, true, nullptr, exchange);
  }
  if (!version.empty() && !IsMcpHandshake(version)) {
    return refuse(
        Refusal(400, absl::StrCat("MCP-Protocol-Version is ", Quoted(version), ", which is not spoken here"),
                message.id));
  }
  if (is_request && message.method == "initialize") {
    server.Answer(message, false, {}, [&](const Json& told, bool) {
      HttpAnswer answer = JsonAnswer(told);
      answer.headers.emplace_back("Mcp-Session-Id", Open(request.caller));
      exchange->Answer(answer);
    });
    return nullptr;
  }
  if (request.http.Header(kSession).empty())
    return refuse(Refusal(400, "Mcp-Session-Id is missing; initialize gives one", message.id));
  Session* const session = Find(request);
  if (session == nullptr) return refuse(Refusal(404, "there is no such session", message.id));
  if (is_request) return Ask(request, message, false, session, exchange);
  if (message.method == "notifications/cancelled") {
    const auto found = session->calls.find(message.params.value("requestId", Json()).dump());
    if (found != session->calls.end()) {
      if (const auto call = found->second.lock()) call->Cancel();
    }
  }
  return refuse(Nothing(202));
}

HttpAnswer McpDoor::Impl::Delete(const RoutedRequest& request) {
  if (!IsOwnOrigin(request.http)) return Refusal(403, "pages of that origin may not ask here");
  Session* const session = Find(request);
  if (session == nullptr) return Refusal(404, "there is no such session");
  const auto calls = std::move(session->calls);
  sessions.erase(request.http.Header(kSession));
  for (const auto& [id, weak] : calls) {
    if (const auto call = weak.lock()) call->Cancel();
  }
  return Nothing(204);
}

McpDoor::McpDoor(McpBackend& backend, McpDoorOptions options)
    : impl_(std::make_shared<Impl>(backend, std::move(options))) {}
McpDoor::~McpDoor() = default;

void McpDoor::AddRoutes(HttpRoutes& routes, const HttpDoorFacts& door) {
  impl_->origins = door.origins;
  routes.Work(
      kPath,
      [impl = impl_.get()](RoutedRequest request, const std::shared_ptr<HttpExchange>& exchange) {
        return impl->Post(std::move(request), exchange);
      },
      RouteNeeds::kKey);
  routes.Call(
      "DELETE", kPath,
      [impl = impl_.get()](const RoutedRequest& request, const std::shared_ptr<HttpExchange>& exchange) {
        exchange->Answer(impl->Delete(request));
        return nullptr;
      },
      RouteNeeds::kKey);
}

void McpDoor::EndAll(const absl::Status&) {
  impl_->ended = true;
  impl_->server.StopCalls();
}

}  // namespace omni
