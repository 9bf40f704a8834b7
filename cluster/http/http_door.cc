#include "cluster/http/http_door.h"

#include <algorithm>
#include <atomic>
#include <random>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/strip.h>

#include "cluster/executor.h"
#include "cluster/host_port.h"
#include "cluster/http/generation_call.h"
#include "cluster/http/http_metrics.h"
#include "cluster/http/openai_answer.h"
#include "engine/base/json.h"
#include "engine/base/log.h"

namespace omni {
namespace {

using Json = nlohmann::json;

constexpr char kModelPath[] = "/v1/models/";

// The paths that there are; what stands for a client's path in metrics and logs.
struct DoorPath {
  const char* path;
  bool post;
};
constexpr DoorPath kRoutes[] = {
    {"/health", false},    {"/ready", false},   {"/metrics", false},       {"/props", false},
    {"/v1/models", false}, {kModelPath, false}, {"/v1/completions", true}, {"/v1/chat/completions", true}};
constexpr char kNoRoute[] = "other";

const DoorPath* FindPath(const std::string& path) {
  for (const DoorPath& route : kRoutes) {
    if (path == route.path || (route.path == std::string_view(kModelPath) && path.starts_with(kModelPath)))
      return &route;
  }
  return nullptr;
}

HttpAnswer JsonAnswer(const Json& json) {
  HttpAnswer answer;
  answer.body = JsonText(json) + "\n";
  return answer;
}

// A page of another site that a browser shows may send its user's requests here under the site's own name.
bool IsLocalName(const std::string& host_header) {
  const std::string host = absl::AsciiStrToLower(SplitHostPort(host_header).host);
  return host.empty() || host == "localhost" || host == "::1" || host.starts_with("127.");
}

bool IsJson(const std::string& content_type) {
  const std::string type = absl::AsciiStrToLower(content_type.substr(0, content_type.find(';')));
  return absl::StripAsciiWhitespace(type) == "application/json";
}

}  // namespace

struct HttpDoor::Impl : public HttpHandler {
  Impl(ServedModel m, Behind b)
      : model(std::move(m)), behind(std::move(b)), context{behind.backend, &model, &metrics, &readers} {
    model.tokenizer = &behind.backend->tokenizer();
    model.max_context = behind.backend->max_context();
    created =
        std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
            .count();
  }

  std::shared_ptr<HttpCall> OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override;
  HttpAnswer OnRefused(int status, const std::string& why) override { return ErrorAnswer(status, why); }
  void OnDone(const HttpDone& done) override;

  HttpAnswer Get(const std::string& path);
  absl::Status Ready();
  Json ModelJson() const;
  Json Props();
  std::string NewId(const char* prefix);

  ServedModel model;
  Behind behind;
  HttpMetrics metrics;
  Executor readers;
  const GenerationContext context;
  int64_t created = 0;
  std::random_device random;
  std::atomic<bool> draining{false};
  std::unique_ptr<HttpServer> server;  // goes first
};

std::shared_ptr<HttpCall> HttpDoor::Impl::OnRequest(HttpRequest request,
                                                    std::shared_ptr<HttpExchange> exchange) {
  const auto refuse = [&](int status, const std::string& why) {
    exchange->Answer(ErrorAnswer(status, why));
    return nullptr;
  };
  if (!IsLocalName(request.Header("host")))
    return refuse(403, "this server answers under the names of loopback alone: localhost, 127.0.0.1, [::1]");
  const DoorPath* route = FindPath(request.path);
  if (route == nullptr) return refuse(404, absl::StrCat("there is no ", Quoted(request.path), " here"));
  const bool reads = request.method == "GET" || request.method == "HEAD";
  if (route->post ? request.method != "POST" : !reads) {
    const char* allowed = route->post ? "POST" : "GET, HEAD";
    HttpAnswer answer =
        ErrorAnswer(405, absl::StrCat(route->path, " takes ", allowed, ", not ", Quoted(request.method)));
    answer.headers.emplace_back("Allow", allowed);
    exchange->Answer(answer);
    return nullptr;
  }
  if (!route->post) {
    exchange->Answer(Get(request.path));
    return nullptr;
  }
  if (!IsJson(request.Header("content-type")))
    return refuse(415, "the body must be JSON, and the Content-Type application/json");
  if (draining) return refuse(503, "the server is shutting down");
  const bool chat = route->path == std::string_view("/v1/chat/completions");
  return StartGeneration(context, chat, std::move(request.body), NewId(chat ? "chatcmpl-" : "cmpl-"),
                         std::move(exchange));
}

HttpAnswer HttpDoor::Impl::Get(const std::string& path) {
  if (path == "/health") return JsonAnswer({{"status", "ok"}});
  if (path == "/ready") {
    if (absl::Status s = Ready(); !s.ok()) return ErrorAnswer(s);
    return JsonAnswer({{"status", "ready"}});
  }
  if (path == "/props") return JsonAnswer(Props());
  if (path == "/v1/models") {
    return JsonAnswer({{"object", "list"},
                       {"data", Json::array({ModelJson()})},
                       {"models", Json::array({{{"name", model.name}, {"model", model.name}}})}});
  }
  if (path == "/metrics") {
    HttpAnswer answer;
    answer.content_type = "text/plain; version=0.0.4; charset=utf-8";
    answer.body = metrics.Text({behind.stats(), server->connections(), Ready().ok()});
    return answer;
  }
  const std::string name = path.substr(std::string_view(kModelPath).size());
  if (name == model.name) return JsonAnswer(ModelJson());
  return ErrorAnswer(absl::NotFoundError(
      absl::StrCat("the model ", Quoted(name), " is not served here; '", model.name, "' is")));
}

absl::Status HttpDoor::Impl::Ready() {
  if (draining) return absl::UnavailableError("the server is shutting down");
  return behind.backend->Serving();
}

Json HttpDoor::Impl::ModelJson() const {
  return {{"id", model.name}, {"object", "model"}, {"created", created}, {"owned_by", "omni"}};
}

Json HttpDoor::Impl::Props() {
  return {{"default_generation_settings",
           {{"n_ctx", model.max_context}, {"temperature", 1}, {"top_p", 1}, {"top_k", 0}, {"min_p", 0}}},
          {"total_slots", behind.slots},
          {"model_alias", model.name},
          {"model_hash", behind.backend->model_hash()},
          {"chat_template", model.chat.Describe()},
          {"chat_template_from_model", model.chat.from_file()}};
}

std::string HttpDoor::Impl::NewId(const char* prefix) {
  return absl::StrFormat("%s%08x%08x%08x", prefix, random(), random(), random());
}

void HttpDoor::Impl::OnDone(const HttpDone& done) {
  const DoorPath* found = FindPath(done.path);
  const std::string route = found == nullptr ? kNoRoute : found->path;
  metrics.OnRequest(route, done.status, done.took);
  LogDebug("http_request", "{route}: {status} after {took}, client gone: {gone}",
           {{"route", route}, {"status", done.status}, {"took", done.took}, {"gone", done.gone}});
}

absl::StatusOr<std::unique_ptr<HttpDoor>> HttpDoor::Open(HttpServerOptions options, ServedModel model,
                                                         Behind behind) {
  auto impl = std::make_unique<Impl>(std::move(model), std::move(behind));
  absl::StatusOr<std::unique_ptr<HttpServer>> server = HttpServer::Listen(std::move(options), *impl);
  if (!server.ok()) return server.status();
  impl->server = *std::move(server);
  impl->server->Run();
  return std::unique_ptr<HttpDoor>(new HttpDoor(std::move(impl)));
}

HttpDoor::HttpDoor(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpDoor::~HttpDoor() = default;

const std::string& HttpDoor::address() const { return impl_->server->address(); }

bool HttpDoor::Drain(std::chrono::milliseconds most) {
  impl_->draining = true;
  LogInfo("serve_draining", "no new requests are taken; what runs has {most}", {{"most", most}});
  const bool all = impl_->server->Drain(most);
  if (!all)
    LogWarning("serve_cut", "answers that were not finished within {most} are cut off", {{"most", most}});
  return all;
}

}  // namespace omni
