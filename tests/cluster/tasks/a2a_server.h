// An HTTP server of the Agent2Agent protocol's routes alone, in front of a task engine, for tests to ask.
#pragma once

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "actors/task/task_engine.h"
#include "cluster/access.h"
#include "cluster/http/http_guard.h"
#include "cluster/http/http_routes.h"
#include "cluster/http/http_server.h"
#include "cluster/http/openai_answer.h"
#include "cluster/tasks/a2a_door.h"
#include "cluster/tasks/task_pusher.h"
#include "store/state/database.h"
#include "store/state/record_store.h"
#include "tests/testing/temp_dir.h"

namespace omni::testing {

// Routes behind a guard, as a door has them.
class RoutesHandler final : public HttpHandler {
 public:
  explicit RoutesHandler(std::shared_ptr<Access> access) : guard_({std::move(access), {}}) {}
  HttpRoutes& routes() { return routes_; }

  std::shared_ptr<HttpCall> OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    HttpRoutes::Found found = routes_.Find(request.method, request.path);
    HttpGuard::Verdict verdict = guard_.Check(request, found);
    if (verdict.answer.has_value() || found.route == nullptr) {
      exchange->Answer(verdict.answer.has_value() ? *verdict.answer
                                                  : ErrorAnswer(404, "there is no such path"));
      return nullptr;
    }
    return found.route->handle(
        {std::move(request), std::move(found.argument), std::move(verdict.caller.name), nullptr},
        std::move(exchange));
  }
  HttpAnswer OnRefused(int status, const std::string& why) override { return ErrorAnswer(status, why); }
  void OnDone(const HttpDone&) override {}

 private:
  const HttpGuard guard_;
  HttpRoutes routes_;
};

class A2aServer {
 public:
  // `push`: who may be told; none: nobody.
  explicit A2aServer(std::shared_ptr<Access> access = nullptr, A2aOptions options = {},
                     PushConfig push = {}) {
    database_ = Database::Open(temp_ / "tasks", {}).value();
    store_ = MakeDatabaseRecordStore(*database_);
    engine_ = TaskEngine::Start(*store_, {}).value();
    options.access = access.get();
    options.version = "1";
    options.places = [] {
      return std::vector<TaskPlaces>{{"model", "*", "n1", 4, 0, "continues a text"},
                                     {"command", "list", "n1", 1, 0, ""}};
    };
    if (!push.allow.empty()) {
      TaskPusherOptions with;
      with.config = std::move(push);
      with.body = A2aPushBody;
      pusher_ = TaskPusher::Start(std::move(with), *engine_).value();
      options.pusher = pusher_.get();
    }
    door_ = A2aDoor::Make(options, engine_.get());
    handler_ = std::make_unique<RoutesHandler>(std::move(access));
    door_->AddRoutes(handler_->routes(), {});
    HttpServerOptions http;
    http.listen = "127.0.0.1:0";
    http.keys = options.access != nullptr;
    server_ = HttpServer::Listen(http, *handler_).value();
    server_->Run();
  }
  ~A2aServer() {
    server_ = nullptr;
    door_ = nullptr;
    pusher_ = nullptr;
    engine_ = nullptr;
  }
  const std::string& address() const { return server_->address(); }
  TaskEngine& engine() { return *engine_; }
  A2aDoor& door() { return *door_; }

  // --- As an executor; each waits until it lasts.

  // The next task that waits; nothing: none comes.
  std::optional<TaskAssignment> Take(const std::string& executor = "model") {
    std::promise<std::optional<TaskAssignment>> promise;
    engine_->Await("w", "n1", {{executor, "*"}, {executor, ""}}, std::chrono::minutes(1),
                   [&](auto taken) { promise.set_value(taken.ok() ? *std::move(taken) : std::nullopt); });
    return promise.get_future().get();
  }
  absl::Status Report(const std::string& token, TaskReport::Item item) {
    TaskReport report;
    report.items.push_back(std::move(item));
    std::promise<absl::Status> promise;
    engine_->Report(token, report, [&](auto told) { promise.set_value(told.status()); });
    return promise.get_future().get();
  }
  absl::Status Output(const std::string& token, const std::string& bytes,
                      const std::string& stream = "text") {
    return Report(token, {TaskEventKind::kOutput, stream, bytes});
  }
  absl::Status Succeed(const std::string& token, const std::string& result) {
    std::promise<absl::Status> promise;
    engine_->Succeed(token, {}, result, [&](absl::Status told) { promise.set_value(std::move(told)); });
    return promise.get_future().get();
  }
  absl::Status Fail(const std::string& token, const std::string& error, const std::string& message) {
    std::promise<absl::Status> promise;
    engine_->Fail(token, {}, error, message, [&](absl::Status told) { promise.set_value(std::move(told)); });
    return promise.get_future().get();
  }

 private:
  const TempDir temp_ = TempDir::InMemory();
  std::unique_ptr<Database> database_;
  std::unique_ptr<RecordStore> store_;
  std::unique_ptr<TaskEngine> engine_;
  std::unique_ptr<TaskPusher> pusher_;
  std::unique_ptr<A2aDoor> door_;
  std::unique_ptr<RoutesHandler> handler_;
  std::unique_ptr<HttpServer> server_;
};

}  // namespace omni::testing
