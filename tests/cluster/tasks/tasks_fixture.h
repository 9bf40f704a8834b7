// omni.tasks.v1 in front of a task engine, over loopback, for clients that a test is.
#pragma once

#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "actors/task/task_engine.h"
#include "cluster/access_keys.h"
#include "cluster/grpc_errors.h"
#include "cluster/tasks/task_service.h"
#include "omni/tasks/v1/tasks.grpc.pb.h"
#include "store/state/database.h"
#include "store/state/record_store.h"
#include "tests/testing/temp_dir.h"

namespace omni::testing {

namespace pb = ::omni::tasks::v1;
using grpc::StatusCode;

class TasksFixture : public ::testing::Test {
 protected:
  void SetUp() override { Start(); }
  void TearDown() override { Stop(); }

  virtual std::unique_ptr<RecordStore> MakeStore(std::unique_ptr<RecordStore> of) { return of; }
  void Start() {
    database_ = Database::Open(temp_ / "tasks", {}).value();
    store_ = MakeStore(MakeDatabaseRecordStore(*database_));
    engine_ = TaskEngine::Start(*store_, {}).value();
    if (!keys_.empty()) access_ = Access::Open(temp_ / "keys.json").value();
    options_.access = access_.get();
    options_.serving = [this] { return serving_; };
    options_.elsewhere = [this] { return elsewhere_; };
    options_.places = [] { return std::vector<TaskPlaces>{{"command", "*", "n1", 4, 1, "programs"}}; };
    service_ = TaskService::Make(options_, engine_.get()).value();
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.SetMaxReceiveMessageSize(64 << 20);
    builder.RegisterService(service_->service());
    server_ = builder.BuildAndStart();
    stub_ = pb::SwarmTasks::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials()));
  }
  void Stop() {
    if (service_ != nullptr) service_->EndAll(absl::UnavailableError("the test is over"));
    if (server_ != nullptr) server_->Shutdown();
    server_ = nullptr;
    service_ = nullptr;
    engine_ = nullptr;
    store_ = nullptr;
    database_ = nullptr;
  }
  void Restart() {
    Stop();
    Start();
  }

  // From the next start on keys are wanted.
  void MakeKey(const std::string& name, Scopes scopes) {
    const auto made = CreateKey(temp_ / "keys.json", name, scopes, std::nullopt,
                                std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now()));
    ASSERT_TRUE(made.ok()) << made.status();
    keys_[name] = made->key;
  }
  // Who calls from now on; empty: without a key.
  void Be(const std::string& name) { caller_ = name; }
  std::unique_ptr<grpc::ClientContext> Context() const {
    auto context = std::make_unique<grpc::ClientContext>();
    if (!caller_.empty()) context->AddMetadata("authorization", "Bearer " + keys_.at(caller_));
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(2));
    return context;
  }

  static pb::SubmitTaskRequest Command(const std::string& program, const std::string& key = "") {
    pb::SubmitTaskRequest request;
    request.mutable_spec()->mutable_work()->mutable_command()->set_program(program);
    request.set_idempotency_key(key);
    return request;
  }
  // Any call: CALL(&Stub::GetTask, request) gives the answer, and `last_` how it ended.
  template <typename Request, typename Response>
  Response Call(grpc::Status (pb::SwarmTasks::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                const Request& request) {
    Response response;
    const auto context = Context();
    last_ = (stub_.get()->*method)(context.get(), request, &response);
    trailing_.clear();
    for (const auto& [key, value] : context->GetServerTrailingMetadata())
      trailing_[std::string(key.data(), key.size())] = std::string(value.data(), value.size());
    return response;
  }
  std::string Submit(const pb::SubmitTaskRequest& request) {
    const auto response = Call(&pb::SwarmTasks::Stub::SubmitTask, request);
    EXPECT_TRUE(last_.ok()) << last_.error_message();
    return response.task().id();
  }
  template <typename Request>
  static Request Of(const std::string& id) {
    Request request;
    request.set_id(id);
    return request;
  }
  pb::Task Get(const std::string& id) {
    return Call(&pb::SwarmTasks::Stub::GetTask, Of<pb::GetTaskRequest>(id));
  }
  struct Watched {
    std::vector<pb::TaskEvent> events;
    grpc::Status status;
  };
  // Up to its end, or for `most` events.
  Watched Watch(const std::string& id, int64_t after = 0, size_t most = SIZE_MAX) {
    pb::WatchTaskRequest request;
    request.set_id(id);
    request.set_after(after);
    const auto context = Context();
    const auto reader = stub_->WatchTask(context.get(), request);
    Watched watched;
    pb::TaskEvent event;
    while (watched.events.size() < most && reader->Read(&event)) watched.events.push_back(event);
    if (watched.events.size() == most) context->TryCancel();
    watched.status = reader->Finish();
    return watched;
  }
  void ExpectError(StatusCode code, const std::string& reason) {
    EXPECT_EQ(last_.error_code(), code) << last_.error_message();
    EXPECT_EQ(DetailsOf(last_).reason, reason) << last_.error_message();
  }

  // --- As an executor

  std::optional<TaskAssignment> Take() {
    std::promise<std::optional<TaskAssignment>> promise;
    engine_->Take("w", "n1", {{"command", "*"}}, [&](absl::StatusOr<std::optional<TaskAssignment>> taken) {
      promise.set_value(taken.value());
    });
    return promise.get_future().get();
  }
  void Report(const std::string& token, const std::vector<std::string>& outputs) {
    TaskReport report;
    for (const std::string& output : outputs)
      report.items.push_back({TaskEventKind::kOutput, "stdout", output});
    std::promise<absl::Status> promise;
    engine_->Report(token, report, [&](auto told) { promise.set_value(told.status()); });
    const absl::Status told = promise.get_future().get();
    EXPECT_TRUE(told.ok()) << told;
  }
  void Succeed(const std::string& token, const std::string& result) {
    std::promise<absl::Status> promise;
    engine_->Succeed(token, {}, result, [&](absl::Status told) { promise.set_value(std::move(told)); });
    const absl::Status told = promise.get_future().get();
    EXPECT_TRUE(told.ok()) << told;
  }
  void Fail(const std::string& token, const std::string& error, const std::string& message) {
    std::promise<absl::Status> promise;
    engine_->Fail(token, {}, error, message, [&](absl::Status told) { promise.set_value(std::move(told)); });
    const absl::Status told = promise.get_future().get();
    EXPECT_TRUE(told.ok()) << told;
  }

  const TempDir temp_ = TempDir::InMemory();
  TaskServiceOptions options_;
  absl::Status serving_;
  std::string elsewhere_, caller_;
  std::map<std::string, std::string> keys_, trailing_;
  std::unique_ptr<Access> access_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<RecordStore> store_;
  std::unique_ptr<TaskEngine> engine_;
  std::unique_ptr<TaskService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<pb::SwarmTasks::Stub> stub_;
  grpc::Status last_;
};

}  // namespace omni::testing
