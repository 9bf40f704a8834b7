#include "cluster/http/status_pages.h"

#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/http/http_routes.h"
#include "cluster/http/openai_answer.h"
#include "cluster/http/recent_events.h"
#include "cluster/http/status_feed.h"
#include "cluster/http/status_json.h"
#include "cluster/http/web_files.h"
#include "engine/base/quoted.h"
#include "engine/base/random.h"

namespace omni {

struct StatusPages::Impl {
  Impl(StatusSource& s, std::string model_name, int64_t slots, std::function<absl::Status()> r,
       std::function<int64_t()> c)
      : source(s),
        ready(std::move(r)),
        connections(std::move(c)),
        facts(source.Facts()),
        feed(
            {.boot = RandomHex(16)}, StatusJson(facts, std::move(model_name), slots),
            [this] { return Moment(); }, events) {}

  StatusMoment Moment() const {
    StatusMoment moment;
    moment.now = source.Now();
    const absl::Status is_ready = ready();
    moment.ready = is_ready.ok();
    moment.why = std::string(is_ready.message());
    moment.connections = connections();
    moment.time = std::chrono::system_clock::now();
    moment.up = std::chrono::steady_clock::now() - opened;
    return moment;
  }

  StatusSource& source;
  const std::function<absl::Status()> ready;
  const std::function<int64_t()> connections;
  const ProcessFacts facts;
  const std::chrono::steady_clock::time_point opened = std::chrono::steady_clock::now();
  RecentEvents events;
  StatusFeed feed;
};

StatusPages::StatusPages(StatusSource& source, std::string model_name, int64_t slots,
                         std::function<absl::Status()> ready, std::function<int64_t()> connections)
    : impl_(std::make_unique<Impl>(source, std::move(model_name), slots, std::move(ready),
                                   std::move(connections))) {}
StatusPages::~StatusPages() = default;

void StatusPages::AddRoutes(HttpRoutes& routes) {
  routes.Page(
      "GET", "/", [](const RoutedRequest& request) { return WebFile(request.http); }, RouteNeeds::kNothing);
  routes.Page(
      "GET", "/web/*",
      [](const RoutedRequest& request) {
        if (IsWebFile(request.http.path)) return WebFile(request.http);
        return ErrorAnswer(404, absl::StrCat("there is no ", Quoted(request.http.path), " here"));
      },
      RouteNeeds::kNothing);
  routes.Page(
      "GET", "/v1/status",
      [this](const RoutedRequest&) {
        HttpAnswer answer;
        answer.headers.emplace_back("Cache-Control", "no-store");
        answer.body = impl_->feed.Moment() + "\n";
        return answer;
      },
      RouteNeeds::kAdmin);
  routes.Stream(
      "/v1/status/stream",
      [this](RoutedRequest request, std::shared_ptr<HttpExchange> exchange) -> std::shared_ptr<HttpCall> {
        if (request.http.method == "HEAD") {
          HttpAnswer head;
          head.content_type = "text/event-stream";
          exchange->Answer(head);
          return nullptr;
        }
        std::shared_ptr<HttpCall> watch = impl_->feed.Watch(request.http, exchange);
        if (watch == nullptr) exchange->Answer(ErrorAnswer(503, "the server is shutting down"));
        return watch;
      },
      RouteNeeds::kAdmin);
}

void StatusPages::End() { impl_->feed.End(); }
void StatusPages::Stop() { impl_->feed.Stop(); }

const ProcessFacts& StatusPages::facts() const { return impl_->facts; }
int64_t StatusPages::watchers() const { return impl_->feed.watchers(); }
int64_t StatusPages::moments() const { return impl_->feed.made(); }

}  // namespace omni
