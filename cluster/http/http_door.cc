#include "cluster/http/http_door.h"

#include <atomic>
#include <chrono>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/strip.h>

#include "cluster/fair_executor.h"
#include "cluster/http/completion_routes.h"
#include "cluster/http/embedding_routes.h"
#include "cluster/http/generation_call.h"
#include "cluster/http/http_guard.h"
#include "cluster/http/http_metrics.h"
#include "cluster/http/http_routes.h"
#include "cluster/http/model_pages.h"
#include "cluster/http/openai_answer.h"
#include "cluster/http/response_routes.h"
#include "cluster/http/status_pages.h"
#include "engine/base/log.h"
#include "engine/base/quoted.h"

namespace omni {
namespace {

constexpr char kNoRoute[] = "other";  // what stands for it in metrics and logs

HttpAnswer StatusAnswer(const char* status) {
  HttpAnswer answer;
  answer.body = absl::StrCat("{\"status\":\"", status, "\"}\n");
  return answer;
}

// What stands for a client's method in the log.
std::string_view MethodName(const std::string& method) {
  for (const std::string_view known : {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}) {
    if (method == known) return known;
  }
  return kNoRoute;
}

bool IsJson(const std::string& content_type) {
  const std::string type = absl::AsciiStrToLower(content_type.substr(0, content_type.find(';')));
  return absl::StripAsciiWhitespace(type) == "application/json";
}

}  // namespace

struct HttpDoor::Impl : public HttpHandler {
  Impl(ServedModel m, Behind b, bool tls)
      : model(std::move(m)),
        behind(std::move(b)),
        guard(behind.guard),
        context{behind.backend, &model, &metrics, &readers},
        status(
            *behind.status, model.name, behind.slots, [this] { return Ready(); },
            [this] { return server->connections(); }) {
    model.tokenizer = &behind.backend->tokenizer();
    model.max_context = behind.backend->max_context();
    AddRoutes(tls);
  }
  ~Impl() override { status.Stop(); }  // it asks the server, which goes first

  std::optional<HttpAnswer> OnHead(const HttpRequest& head) override;
  std::shared_ptr<HttpCall> OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override;
  HttpAnswer OnRefused(int status, const std::string& why) override { return ErrorAnswer(status, why); }
  void OnDone(const HttpDone& done) override;

  void AddRoutes(bool tls);
  absl::Status Ready();
  HttpAnswer MetricsPage();

  ServedModel model;
  Behind behind;
  const HttpGuard guard;
  HttpMetrics metrics;
  ResponseStore responses;
  FairExecutor readers;  // goes before what is used there
  const GenerationContext context;
  HttpRoutes routes;
  StatusPages status;
  std::atomic<bool> draining{false};
  std::unique_ptr<HttpServer> server;  // goes first
};

void HttpDoor::Impl::AddRoutes(bool tls) {
  // Whoever watches over a process has no key for it.
  routes.Page(
      "GET", "/health", [](const RoutedRequest&) { return StatusAnswer("ok"); }, RouteNeeds::kNothing);
  routes.Page(
      "GET", "/ready",
      [this](const RoutedRequest&) {
        const absl::Status ready = Ready();
        return ready.ok() ? StatusAnswer("ready") : ErrorAnswer(ready);
      },
      RouteNeeds::kNothing);
  routes.Page(
      "GET", "/metrics", [this](const RoutedRequest&) { return MetricsPage(); }, RouteNeeds::kAdmin);
  AddModelPages({&model, behind.backend->model_hash(), behind.slots, SecondsSince1970(), behind.backend},
                routes);
  AddCompletionRoutes(context, routes);
  AddResponseRoutes(context, responses, routes);
  AddEmbeddingRoutes(context, routes);
  status.AddRoutes(routes);
  for (HttpExtension* extension : behind.extensions)
    extension->AddRoutes(routes, {tls, behind.guard.cors_origins});
}

std::optional<HttpAnswer> HttpDoor::Impl::OnHead(const HttpRequest& head) {
  HttpGuard::Verdict verdict = guard.Check(head, routes.Find(head.method, head.path));
  if (verdict.answer.has_value()) guard.Mark(head, *verdict.answer);
  return std::move(verdict.answer);
}

std::shared_ptr<HttpCall> HttpDoor::Impl::OnRequest(HttpRequest request,
                                                    std::shared_ptr<HttpExchange> exchange) {
  exchange = guard.Wrap(request, std::move(exchange));
  const auto refuse = [&](int status, const std::string& why) {
    exchange->Answer(ErrorAnswer(status, why));
    return nullptr;
  };
  HttpRoutes::Found found = routes.Find(request.method, request.path);
  HttpGuard::Verdict verdict = guard.Check(request, found);
  if (verdict.answer.has_value()) {
    exchange->Answer(*verdict.answer);
    return nullptr;
  }
  if (found.path == nullptr) return refuse(404, absl::StrCat("there is no ", Quoted(request.path), " here"));
  if (found.route == nullptr) {
    HttpAnswer answer = ErrorAnswer(
        405, absl::StrCat(found.path, " takes ", found.allowed, ", not ", Quoted(request.method)));
    answer.headers.emplace_back("Allow", found.allowed);
    exchange->Answer(answer);
    return nullptr;
  }
  if (found.route->kind == HttpRoute::Kind::kWork) {
    if (!IsJson(request.Header("content-type")))
      return refuse(415, "the body must be JSON, and the Content-Type application/json");
    if (draining) return refuse(503, "the server is shutting down");
  }
  request.record->caller = verdict.caller.name;
  std::shared_ptr<CallerLimits::Permit> permit;
  if (found.route->kind == HttpRoute::Kind::kWork && behind.limits != nullptr) {
    absl::StatusOr<std::shared_ptr<CallerLimits::Permit>> entered = behind.limits->Enter(verdict.caller.name);
    if (!entered.ok()) {
      exchange->Answer(ErrorAnswer(entered.status()));
      return nullptr;
    }
    permit = *std::move(entered);
  }
  return found.route->handle({std::move(request), std::move(found.argument), std::move(verdict.caller.name),
                              std::move(permit), verdict.caller.scopes},
                             std::move(exchange));
}

HttpAnswer HttpDoor::Impl::MetricsPage() {
  HttpAnswer answer;
  answer.content_type = "text/plain; version=0.0.4; charset=utf-8";
  answer.body = metrics.Text(status.facts(), {behind.status->Now(), server->connections(), behind.slots,
                                              status.watchers(), status.moments(), Ready().ok()});
  return answer;
}

absl::Status HttpDoor::Impl::Ready() {
  if (draining) return absl::UnavailableError("the server is shutting down");
  return behind.backend->Serving();
}

void HttpDoor::Impl::OnDone(const HttpDone& done) {
  const char* found = routes.Find("GET", done.path).path;
  const std::string route = found == nullptr ? kNoRoute : found;
  metrics.OnRequest(route, done.status, done.took);
  if (!behind.log_requests || !LogEnabled(LogLevel::kInfo)) return;
  const RequestRecord& record = *done.record;
  LogInfo("http_request", "{method} {route}: {status} after {took}",
          {{"request", record.ids.request},
           {"trace", record.ids.trace},
           {"span", record.ids.span},
           {"method", MethodName(done.method)},
           {"route", route},
           {"status", done.status},
           {"took", done.took},
           {"first_token", record.first_token},
           {"prompt_tokens", record.prompt_tokens},
           {"tokens", record.tokens},
           {"session", record.session},
           {"caller", record.caller},
           {"gone", done.gone}});
}

absl::StatusOr<std::unique_ptr<HttpDoor>> HttpDoor::Open(HttpServerOptions options, ServedModel model,
                                                         Behind behind) {
  auto impl = std::make_unique<Impl>(std::move(model), std::move(behind), options.tls != nullptr);
  options.keys = impl->behind.guard.access != nullptr;
  absl::StatusOr<std::unique_ptr<HttpServer>> server = HttpServer::Listen(std::move(options), *impl);
  if (!server.ok()) return server.status();
  impl->server = *std::move(server);
  impl->server->Run();
  return std::unique_ptr<HttpDoor>(new HttpDoor(std::move(impl)));
}

HttpDoor::HttpDoor(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpDoor::~HttpDoor() = default;

const std::string& HttpDoor::address() const { return impl_->server->address(); }
const HttpRoutes& HttpDoor::routes() const { return impl_->routes; }

bool HttpDoor::Drain(std::chrono::milliseconds most) {
  impl_->draining = true;
  impl_->status.End();
  for (HttpExtension* extension : impl_->behind.extensions)
    extension->EndAll(absl::UnavailableError("the server is shutting down"));
  LogInfo("serve_draining", "no new requests are taken; what runs has {most}", {{"most", most}});
  const bool all = impl_->server->Drain(most);
  if (!all)
    LogWarning("serve_cut", "answers that were not finished within {most} are cut off", {{"most", most}});
  return all;
}

}  // namespace omni
