// The Agent2Agent protocol over gRPC: the same handlers as over HTTP.
#include "cluster/tasks/a2a_service.h"

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <third_party/a2a.grpc.pb.h>
#include <third_party/google_rpc.pb.h>

#include "cluster/grpc_errors.h"
#include "tests/cluster/tasks/a2a_server.h"
#include "tests/cluster/tasks/push_config.h"

namespace omni::testing {
namespace {

class A2aServiceTest : public ::testing::Test {
 protected:
  void Begin(A2aOptions options = {}, PushConfig push = {}) {
    agent_ = std::make_unique<A2aServer>(nullptr, std::move(options), std::move(push));
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(agent_->door().service());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    stub_ = a2a::A2AService::NewStub(
        grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials()));
  }
  void TearDown() override {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    server_ = nullptr;
    agent_ = nullptr;
  }

  static a2a::SendMessageRequest Message(const std::string& id, const std::string& text,
                                         bool at_once = true) {
    a2a::SendMessageRequest request;
    request.mutable_message()->set_message_id(id);
    request.mutable_message()->set_role(a2a::ROLE_USER);
    request.mutable_message()->add_parts()->set_text(text);
    request.mutable_configuration()->set_return_immediately(at_once);
    return request;
  }
  std::string Submit(const std::string& id) {
    grpc::ClientContext context;
    a2a::SendMessageResponse response;
    const grpc::Status status = stub_->SendMessage(&context, Message(id, "sea"), &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.task().id();
  }
  grpc::Status Get(const std::string& id, a2a::Task* task) {
    grpc::ClientContext context;
    a2a::GetTaskRequest request;
    request.set_id(id);
    return stub_->GetTask(&context, request, task);
  }
  void Do() {
    const auto task = agent_->Take();
    ASSERT_TRUE(task.has_value());
    ASSERT_TRUE(agent_->Output(task->token, "a").ok());
    ASSERT_TRUE(agent_->Output(task->token, "b").ok());
    ASSERT_TRUE(agent_->Succeed(task->token, "ab").ok());
  }
  static void ExpectReason(const grpc::Status& status, grpc::StatusCode code, const std::string& reason) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_EQ(DetailsOf(status).reason, reason);
    google::rpc::Status whole;
    google::rpc::ErrorInfo info;
    ASSERT_TRUE(whole.ParseFromString(status.error_details()));
    ASSERT_TRUE(whole.details(0).UnpackTo(&info));
    EXPECT_EQ(info.domain(), "a2a-protocol.org");
  }

  std::unique_ptr<A2aServer> agent_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<a2a::A2AService::Stub> stub_;
};

TEST_F(A2aServiceTest, AMessageWaitsForTheEndAndIsKept) {
  Begin();
  std::jthread does([this] { Do(); });
  grpc::ClientContext context;
  a2a::SendMessageResponse response;
  const grpc::Status status = stub_->SendMessage(&context, Message("m", "sea", false), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.task().status().state(), a2a::TASK_STATE_COMPLETED);
  EXPECT_EQ(response.task().artifacts(0).parts(0).text(), "ab");
  a2a::Task task;
  EXPECT_TRUE(Get(response.task().id(), &task).ok());
  EXPECT_EQ(task.history(0).parts(0).text(), "sea");
  a2a::ListTasksResponse list;
  grpc::ClientContext of_list;
  EXPECT_TRUE(stub_->ListTasks(&of_list, {}, &list).ok());
  EXPECT_EQ(list.total_size(), 1);
}

TEST_F(A2aServiceTest, AStreamBeginsWithTheTaskAndEndsWithIt) {
  Begin();
  grpc::ClientContext context;
  context.AddMetadata("a2a-extensions", "urn:omni:a2a:events:1");
  const auto reader = stub_->SendStreamingMessage(&context, Message("m", "sea"));
  a2a::StreamResponse update;
  ASSERT_TRUE(reader->Read(&update));
  EXPECT_TRUE(update.has_task());
  EXPECT_TRUE(update.task().metadata().fields().contains("urn:omni:a2a:events:1"));
  std::jthread does([this] { Do(); });
  std::string text;
  while (reader->Read(&update)) {
    if (update.has_artifact_update()) text += update.artifact_update().artifact().parts(0).text();
  }
  EXPECT_EQ(text, "ab");
  EXPECT_EQ(update.status_update().status().state(), a2a::TASK_STATE_COMPLETED);
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(context.GetServerInitialMetadata().count("a2a-extensions"), 1u);
}

TEST_F(A2aServiceTest, WhoeverGoesAwayLeavesNothingWaiting) {
  Begin();
  const std::string id = Submit("m");
  {
    grpc::ClientContext stream, send;
    a2a::SubscribeToTaskRequest request;
    request.set_id(id);
    const auto reader = stub_->SubscribeToTask(&stream, request);
    a2a::StreamResponse update;
    ASSERT_TRUE(reader->Read(&update));
    EXPECT_EQ(agent_->door().waiting(), 1);
    stream.TryCancel();
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
    send.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
    a2a::SendMessageResponse response;
    EXPECT_EQ(stub_->SendMessage(&send, Message("m2", "sea", false), &response).error_code(),
              grpc::StatusCode::DEADLINE_EXCEEDED);
  }
  const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (agent_->door().waiting() > 0 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  EXPECT_EQ(agent_->door().waiting(), 0);
}

TEST_F(A2aServiceTest, ErrorsSayWhyInTheProtocolsWords) {
  Begin();
  a2a::Task task;
  ExpectReason(Get("none", &task), grpc::StatusCode::NOT_FOUND, "TASK_NOT_FOUND");
  const std::string id = Submit("m");
  a2a::CancelTaskRequest cancel;
  cancel.set_id(id);
  {
    grpc::ClientContext context;
    EXPECT_TRUE(stub_->CancelTask(&context, cancel, &task).ok());
    EXPECT_EQ(task.status().state(), a2a::TASK_STATE_CANCELED);
  }
  grpc::ClientContext again, over, version, card, large;
  ExpectReason(stub_->CancelTask(&again, cancel, &task), grpc::StatusCode::FAILED_PRECONDITION,
               "TASK_NOT_CANCELABLE");
  a2a::SubscribeToTaskRequest subscribe;
  subscribe.set_id(id);
  ExpectReason(stub_->SubscribeToTask(&over, subscribe)->Finish(), grpc::StatusCode::FAILED_PRECONDITION,
               "UNSUPPORTED_OPERATION");
  version.AddMetadata("a2a-version", "0.2");
  a2a::ListTasksResponse list;
  ExpectReason(stub_->ListTasks(&version, {}, &list), grpc::StatusCode::FAILED_PRECONDITION,
               "VERSION_NOT_SUPPORTED");
  a2a::AgentCard agent;
  ExpectReason(stub_->GetExtendedAgentCard(&card, {}, &agent), grpc::StatusCode::FAILED_PRECONDITION,
               "EXTENDED_AGENT_CARD_NOT_CONFIGURED");
  a2a::SendMessageResponse response;
  ExpectReason(stub_->SendMessage(&large, Message("m3", std::string(2 << 20, 'x')), &response),
               grpc::StatusCode::INVALID_ARGUMENT, "INVALID_PARAMS");
}

TEST_F(A2aServiceTest, WhereNoTasksAreKeptEverythingIsUnavailable) {
  const auto door = A2aDoor::Make({}, nullptr);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(door->service());
  server_ = builder.BuildAndStart();
  stub_ = a2a::A2AService::NewStub(
      grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials()));
  a2a::Task task;
  ExpectReason(Get("none", &task), grpc::StatusCode::UNAVAILABLE, "UNAVAILABLE");
  grpc::ClientContext context;
  ExpectReason(stub_->SendStreamingMessage(&context, Message("m", "sea"))->Finish(),
               grpc::StatusCode::UNAVAILABLE, "UNAVAILABLE");
  server_->Shutdown(std::chrono::system_clock::now());
  server_ = nullptr;
}

TEST_F(A2aServiceTest, WhoIsToldIsSetAskedForListedAndDeleted) {
  Begin({}, PushesTo({"http://127.0.0.1:1"}));
  const std::string id = Submit("m");
  a2a::TaskPushNotificationConfig config, made;
  config.set_task_id(id);
  config.set_id("one");
  config.set_url("http://127.0.0.1:1/hook");
  config.set_token("mine");
  grpc::ClientContext of_create, of_get, of_list, of_delete, of_none, of_refused;
  ASSERT_TRUE(stub_->CreateTaskPushNotificationConfig(&of_create, config, &made).ok());
  EXPECT_EQ(made.SerializeAsString(), config.SerializeAsString());
  a2a::GetTaskPushNotificationConfigRequest get;
  get.set_task_id(id);
  get.set_id("one");
  ASSERT_TRUE(stub_->GetTaskPushNotificationConfig(&of_get, get, &made).ok());
  EXPECT_EQ(made.token(), "mine");
  a2a::ListTaskPushNotificationConfigsRequest list;
  list.set_task_id(id);
  a2a::ListTaskPushNotificationConfigsResponse listed;
  ASSERT_TRUE(stub_->ListTaskPushNotificationConfigs(&of_list, list, &listed).ok());
  EXPECT_EQ(listed.configs_size(), 1);
  a2a::DeleteTaskPushNotificationConfigRequest remove;
  remove.set_task_id(id);
  remove.set_id("one");
  google::protobuf::Empty empty;
  EXPECT_TRUE(stub_->DeleteTaskPushNotificationConfig(&of_delete, remove, &empty).ok());
  ExpectReason(stub_->GetTaskPushNotificationConfig(&of_none, get, &made), grpc::StatusCode::NOT_FOUND,
               "TASK_NOT_FOUND");
  config.set_url("http://127.0.0.1:2/");
  ExpectReason(stub_->CreateTaskPushNotificationConfig(&of_refused, config, &made),
               grpc::StatusCode::INVALID_ARGUMENT, "INVALID_PARAMS");
}

}  // namespace
}  // namespace omni::testing
