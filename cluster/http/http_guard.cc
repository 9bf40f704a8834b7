#include "cluster/http/http_guard.h"

#include <algorithm>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>

#include "cluster/host_port.h"
#include "cluster/http/openai_answer.h"
#include "cluster/loopback.h"
#include "engine/base/quoted.h"

namespace omni {
namespace {

using Headers = std::vector<std::pair<std::string, std::string>>;

constexpr char kExposed[] = "X-Request-Id, Retry-After, WWW-Authenticate";
constexpr size_t kMostAsked = 1024;  // bytes of the names of headers that a page asks to send

// A page of another site that a browser shows may send its user's requests here under the site's own name.
bool IsLocalName(const std::string& host_header) {
  return SplitHostPort(host_header).host.empty() || IsLoopback(host_header);
}

// The only one; with none or several, of which nobody could say which counts, it is not `one`.
const std::string* Only(const HttpRequest& head, std::string_view name, bool* several) {
  const std::string* value = nullptr;
  for (const auto& [key, text] : head.headers) {
    if (key != name) continue;
    *several |= value != nullptr;
    value = &text;
  }
  return value;
}

HttpAnswer Unauthenticated(const absl::Status& status, bool shown) {
  HttpAnswer answer = ErrorAnswer(status);
  answer.headers.emplace_back(
      "WWW-Authenticate", shown ? "Bearer realm=\"omni\", error=\"invalid_token\"" : "Bearer realm=\"omni\"");
  return answer;
}

std::optional<Scope> ScopeOf(RouteNeeds needs) {
  switch (needs) {
    case RouteNeeds::kInfer:
      return Scope::kInfer;
    case RouteNeeds::kTasks:
      return Scope::kTasks;
    case RouteNeeds::kAdmin:
      return Scope::kAdmin;
    case RouteNeeds::kKey:
    case RouteNeeds::kNothing:
      break;
  }
  return std::nullopt;
}

bool IsListOfNames(const std::string& text) {
  return !text.empty() && text.size() <= kMostAsked && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == ',' || c == ' ';
  });
}

Headers OriginHeaders(const std::string& origin) {
  return {{"Access-Control-Allow-Origin", origin},
          {"Access-Control-Expose-Headers", kExposed},
          {"Vary", "Origin"}};
}

class MarkedExchange final : public HttpExchange {
 public:
  MarkedExchange(std::shared_ptr<HttpExchange> inner, Headers headers)
      : inner_(std::move(inner)), headers_(std::move(headers)) {}
  void Answer(const HttpAnswer& answer) override { inner_->Answer(Marked(answer)); }
  void Begin(const HttpAnswer& head) override { inner_->Begin(Marked(head)); }
  void Write(std::string_view piece) override { inner_->Write(piece); }
  void End() override { inner_->End(); }
  size_t unsent() const override { return inner_->unsent(); }
  void Post(std::function<void()> deed) override { inner_->Post(std::move(deed)); }

 private:
  HttpAnswer Marked(HttpAnswer answer) const {
    answer.headers.insert(answer.headers.end(), headers_.begin(), headers_.end());
    return answer;
  }
  const std::shared_ptr<HttpExchange> inner_;
  const Headers headers_;
};

}  // namespace

absl::Status CheckOrigin(const std::string& origin) {
  const size_t scheme = origin.find("://");
  const std::string rest = scheme == origin.npos ? "" : origin.substr(scheme + 3);
  const bool web = origin.starts_with("https://") || origin.starts_with("http://");
  const bool plain = std::all_of(rest.begin(), rest.end(), [](char c) {
    return absl::ascii_isgraph(static_cast<unsigned char>(c)) &&
           !absl::ascii_isupper(static_cast<unsigned char>(c)) &&
           std::string_view("/?#*,;@\"\\").find(c) == std::string_view::npos;
  });
  if (web && plain && !rest.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(origin),
                   " is no origin, which is a scheme, a host in lower case and perhaps a port, and no path: "
                   "https://chat.example, http://localhost:3000"));
}

bool HttpGuard::IsAllowedOrigin(const std::string& origin) const {
  const std::vector<std::string>& all = options_.cors_origins;
  return !origin.empty() && std::find(all.begin(), all.end(), origin) != all.end();
}

HttpAnswer HttpGuard::Preflight(const HttpRequest& head, const HttpRoutes::Found& found) const {
  if (!IsAllowedOrigin(head.Header("origin"))) {
    return ErrorAnswer(403, absl::StrCat("pages of ", Quoted(head.Header("origin")),
                                         " may not ask here; --cors-origin names those that may"));
  }
  if (found.path == nullptr) return ErrorAnswer(404, "there is no such path here");
  HttpAnswer answer;
  answer.status = 204;
  answer.content_type.clear();
  answer.headers = {{"Access-Control-Allow-Methods", found.allowed}, {"Access-Control-Max-Age", "600"}};
  // Clients send headers of their own, which are theirs to name: nothing here acts on them.
  const std::string asked = head.Header("access-control-request-headers");
  answer.headers.emplace_back("Access-Control-Allow-Headers",
                              IsListOfNames(asked) ? asked : "Authorization, Content-Type");
  return answer;
}

HttpGuard::Verdict HttpGuard::Check(const HttpRequest& head, const HttpRoutes::Found& found) const {
  const auto refuse = [](HttpAnswer answer) { return Verdict{std::move(answer), {}}; };
  if (options_.access == nullptr && !IsLocalName(head.Header("host"))) {
    return refuse(ErrorAnswer(
        403, "this server answers under the names of loopback alone: localhost, 127.0.0.1, [::1]"));
  }
  // A browser asks without a key whether its page may send one.
  if (head.method == "OPTIONS" && !options_.cors_origins.empty() && !head.Header("origin").empty() &&
      !head.Header("access-control-request-method").empty()) {
    return refuse(Preflight(head, found));
  }
  if (options_.access == nullptr) return {std::nullopt, {"", Scopes::All()}};
  // Who may not come in is not told what there is.
  const bool open = found.route != nullptr && found.route->needs == RouteNeeds::kNothing;
  if (open) return {std::nullopt, {}};
  bool several = false;
  const std::string* const header = Only(head, "authorization", &several);
  if (several) {
    return refuse(Unauthenticated(
        absl::UnauthenticatedError("there is more than one Authorization header; send one"), true));
  }
  absl::StatusOr<Caller> caller = options_.access->CheckHeader(header == nullptr ? "" : *header);
  if (!caller.ok()) return refuse(Unauthenticated(caller.status(), header != nullptr));
  const std::optional<Scope> scope = found.route == nullptr ? std::nullopt : ScopeOf(found.route->needs);
  if (!scope.has_value()) return {std::nullopt, *std::move(caller)};
  const absl::Status allowed = Allow(*caller, *scope);
  if (allowed.ok()) return {std::nullopt, *std::move(caller)};
  HttpAnswer answer = ErrorAnswer(allowed);
  answer.headers.emplace_back(
      "WWW-Authenticate",
      absl::StrCat("Bearer realm=\"omni\", error=\"insufficient_scope\", scope=\"", ScopeName(*scope), "\""));
  return refuse(std::move(answer));
}

std::shared_ptr<HttpExchange> HttpGuard::Wrap(const HttpRequest& head,
                                              std::shared_ptr<HttpExchange> exchange) const {
  const std::string origin = head.Header("origin");
  if (!IsAllowedOrigin(origin)) return exchange;
  return std::make_shared<MarkedExchange>(std::move(exchange), OriginHeaders(origin));
}

void HttpGuard::Mark(const HttpRequest& head, HttpAnswer& answer) const {
  const std::string origin = head.Header("origin");
  if (!IsAllowedOrigin(origin)) return;
  const Headers headers = OriginHeaders(origin);
  answer.headers.insert(answer.headers.end(), headers.begin(), headers.end());
}

}  // namespace omni
