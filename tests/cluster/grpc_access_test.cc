// Who may call what over gRPC: every method that there is, by everybody who might.
#include "cluster/grpc_access.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <third_party/a2a.pb.h>

#include "cluster/certificates.h"
#include "cluster/channel_credentials.h"
#include "omni/cluster/v1/admin.pb.h"
#include "omni/cluster/v1/regions.pb.h"
#include "omni/cluster/v1/tiles.pb.h"
#include "omni/inference/v1/inference.pb.h"
#include "omni/memory/v1/memory.pb.h"
#include "omni/tasks/v1/lending.pb.h"
#include "omni/tasks/v1/tasks.pb.h"
#include "tests/testing/recording_log.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using std::chrono::hours;
using std::chrono::seconds;
using std::chrono::system_clock;
using ::testing::HasSubstr;
using ::testing::Not;

// A method that is added belongs here, and in the table of cluster/grpc_access.cc if it is not like the rest
// of its service.
const std::map<std::string, RpcNeeds> kMethods = {
    {"/grpc.health.v1.Health/Check", RpcNeeds::kNothing},
    {"/grpc.health.v1.Health/Watch", RpcNeeds::kNothing},
    {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", RpcNeeds::kKey},
    {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", RpcNeeds::kKey},
    {"/omni.inference.v1.Inference/Generate", RpcNeeds::kInfer},
    {"/omni.inference.v1.Inference/GenerateStream", RpcNeeds::kInfer},
    {"/omni.inference.v1.Inference/Tokenize", RpcNeeds::kInfer},
    {"/omni.inference.v1.Inference/Detokenize", RpcNeeds::kInfer},
    {"/omni.inference.v1.Inference/ListModels", RpcNeeds::kInfer},
    {"/omni.inference.v1.Inference/GetModel", RpcNeeds::kInfer},
    {"/omni.inference.v1.Inference/GetSession", RpcNeeds::kInfer},
    {"/omni.inference.v1.Inference/ForkSession", RpcNeeds::kInfer},
    {"/omni.inference.v1.Inference/ListAdapters", RpcNeeds::kInfer},
    {"/omni.inference.v1.Inference/ListSessions", RpcNeeds::kInfer},
    {"/omni.inference.v1.Inference/DeleteSession", RpcNeeds::kInfer},
    {"/omni.memory.v1.Memory/Add", RpcNeeds::kInfer},
    {"/omni.memory.v1.Memory/Ask", RpcNeeds::kInfer},
    {"/omni.memory.v1.Memory/Import", RpcNeeds::kInfer},
    {"/omni.memory.v1.Memory/Stats", RpcNeeds::kInfer},
    {"/omni.memory.v1.Memory/Forget", RpcNeeds::kInfer},
    {"/omni.tasks.v1.SwarmTasks/SubmitTask", RpcNeeds::kTasks},
    {"/omni.tasks.v1.SwarmTasks/SubmitBatch", RpcNeeds::kTasks},
    {"/omni.tasks.v1.SwarmTasks/GetTask", RpcNeeds::kTasks},
    {"/omni.tasks.v1.SwarmTasks/ListTasks", RpcNeeds::kTasks},
    {"/omni.tasks.v1.SwarmTasks/WatchTask", RpcNeeds::kTasks},
    {"/omni.tasks.v1.SwarmTasks/CancelTask", RpcNeeds::kTasks},
    {"/omni.tasks.v1.SwarmTasks/RetryTask", RpcNeeds::kTasks},
    {"/omni.tasks.v1.SwarmTasks/ListDeadLetters", RpcNeeds::kTasks},
    {"/omni.tasks.v1.SwarmTasks/PurgeTask", RpcNeeds::kTasks},
    {"/omni.tasks.v1.SwarmTasks/GetArtifact", RpcNeeds::kTasks},
    {"/omni.tasks.v1.SwarmTasks/PutSchedule", RpcNeeds::kTasks},
    {"/omni.tasks.v1.TaskLending/End", RpcNeeds::kNode},
    {"/omni.tasks.v1.TaskLending/ReadArtifact", RpcNeeds::kNode},
    {"/omni.tasks.v1.TaskLending/Report", RpcNeeds::kNode},
    {"/omni.tasks.v1.TaskLending/Take", RpcNeeds::kNode},
    {"/omni.tasks.v1.SwarmTasks/ListSchedules", RpcNeeds::kTasks},
    {"/omni.tasks.v1.SwarmTasks/DeleteSchedule", RpcNeeds::kTasks},
    {"/omni.tasks.v1.SwarmTasks/ListExecutors", RpcNeeds::kTasks},
    {"/lf.a2a.v1.A2AService/SendMessage", RpcNeeds::kTasks},
    {"/lf.a2a.v1.A2AService/SendStreamingMessage", RpcNeeds::kTasks},
    {"/lf.a2a.v1.A2AService/GetTask", RpcNeeds::kTasks},
    {"/lf.a2a.v1.A2AService/ListTasks", RpcNeeds::kTasks},
    {"/lf.a2a.v1.A2AService/CancelTask", RpcNeeds::kTasks},
    {"/lf.a2a.v1.A2AService/SubscribeToTask", RpcNeeds::kTasks},
    {"/lf.a2a.v1.A2AService/CreateTaskPushNotificationConfig", RpcNeeds::kTasks},
    {"/lf.a2a.v1.A2AService/GetTaskPushNotificationConfig", RpcNeeds::kTasks},
    {"/lf.a2a.v1.A2AService/ListTaskPushNotificationConfigs", RpcNeeds::kTasks},
    {"/lf.a2a.v1.A2AService/GetExtendedAgentCard", RpcNeeds::kTasks},
    {"/lf.a2a.v1.A2AService/DeleteTaskPushNotificationConfig", RpcNeeds::kTasks},
    {"/omni.cluster.v1.Admin/Join", RpcNeeds::kNode},
    {"/omni.cluster.v1.Admin/Status", RpcNeeds::kAdmin},
    {"/omni.cluster.v1.Admin/Watch", RpcNeeds::kAdmin},
    {"/omni.cluster.v1.Admin/Place", RpcNeeds::kAdmin},
    {"/omni.cluster.v1.Admin/Drain", RpcNeeds::kAdmin},
    {"/omni.cluster.v1.Admin/Forget", RpcNeeds::kAdmin},
    {"/omni.cluster.v1.Admin/Rebalance", RpcNeeds::kAdmin},
    {"/omni.cluster.v1.Regions/Exchange", RpcNeeds::kNode},
    {"/omni.cluster.v1.Tiles/Describe", RpcNeeds::kNode},
    {"/omni.cluster.v1.Tiles/FetchFile", RpcNeeds::kNode},
    {"/omni.cluster.v1.Tiles/FetchTiles", RpcNeeds::kNode},
};
// No server here has these; nor may a key find that out.
const char* const kStrangers[] = {"/omni.cluster.v1.AdminX/Status", "/omni.inference.v2.Inference/Generate",
                                  "/omni.cluster.v1.Tiles", "/a/b", "//"};

constexpr char kNobody[] = "nobody", kWrong[] = "wrong", kExpired[] = "expired", kBasic[] = "basic",
               kTwo[] = "two keys", kInfer[] = "infer", kTasks[] = "tasks", kAdmin[] = "admin",
               kNode[] = "node";
const char* const kCallers[] = {kNobody, kWrong, kExpired, kBasic, kTwo, kInfer, kTasks, kAdmin, kNode};

// What somebody gets of a method: it is reached (which says UNIMPLEMENTED), or a refusal.
grpc::StatusCode Expected(const std::string& caller, RpcNeeds needs) {
  constexpr grpc::StatusCode kReached = grpc::StatusCode::UNIMPLEMENTED;
  if (caller == kNode || needs == RpcNeeds::kNothing) return kReached;
  if (caller != kInfer && caller != kTasks && caller != kAdmin) return grpc::StatusCode::UNAUTHENTICATED;
  const bool may = needs == RpcNeeds::kKey || (needs == RpcNeeds::kInfer && caller == kInfer) ||
                   (needs == RpcNeeds::kTasks && caller == kTasks) ||
                   (needs == RpcNeeds::kAdmin && caller == kAdmin);
  return may ? kReached : grpc::StatusCode::PERMISSION_DENIED;
}

// All methods, of which none is there, and who asked the last one that was reached.
class Anything final : public grpc::CallbackGenericService {
 public:
  explicit Anything(Access* access) : access_(access) {}
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    class Reactor final : public grpc::ServerGenericBidiReactor {
     public:
      explicit Reactor(const std::string& caller) {
        Finish(grpc::Status(grpc::StatusCode::UNIMPLEMENTED, caller));
      }
      void OnDone() override { delete this; }
    };
    const auto caller = CallerOf(*context, access_);
    return new Reactor(caller.ok() ? absl::StrCat(caller->name, " ", caller->scopes.Text()) : "-");
  }

 private:
  Access* const access_;
};

class GrpcAccessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const KeyTime now = std::chrono::floor<seconds>(system_clock::now());
    const auto make = [&](const char* caller, Scope scope, KeyTime from, std::optional<seconds> valid) {
      const auto made = CreateKey(keys_, caller, scope, valid, from);
      ASSERT_TRUE(made.ok()) << made.status();
      headers_[caller] = {"Bearer " + made->key};
      secrets_.push_back(made->key.substr(made->key.size() - kKeySecretDigits));
    };
    make(kInfer, Scope::kInfer, now, std::nullopt);
    make(kTasks, Scope::kTasks, now, hours(1));
    make(kAdmin, Scope::kAdmin, now, hours(1));
    make(kExpired, Scope::kAdmin, now - hours(2), hours(1));
    std::string wrong = headers_[kInfer].front();
    wrong.back() = wrong.back() == '0' ? '1' : '0';
    headers_[kWrong] = {wrong};
    headers_[kBasic] = {"Basic b21uaTpvbW5p"};
    headers_[kTwo] = {headers_[kInfer].front(), headers_[kAdmin].front()};
    auto access = Access::Open(keys_);
    ASSERT_TRUE(access.ok()) << access.status();
    access_ = *std::move(access);
    anything_ = std::make_unique<Anything>(access_.get());
    ASSERT_TRUE(MakeAuthority(temp_ / "ca").ok());
    for (const char* node : {"server", "client"}) {
      ASSERT_TRUE(MakeNodeCertificate(temp_ / "ca", node, {"127.0.0.1"}, temp_ / node).ok());
      nodes_[node] = *LoadCredentials(temp_ / node);
    }
  }
  void Serve(const std::shared_ptr<grpc::ServerCredentials>& credentials) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", credentials, &port_);
    builder.RegisterCallbackGenericService(anything_.get());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    ASSERT_NE(port_, 0);
  }
  void Connect(const std::string& name, const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stubs_[name] = std::make_unique<grpc::GenericStub>(
        grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port_), credentials, arguments));
  }
  grpc::Status Call(const std::string& stub, const std::vector<std::string>& headers,
                    const std::string& method, const char* forwarded_for = nullptr) {
    grpc::ClientContext context;
    if (forwarded_for != nullptr) context.AddMetadata(kForwardedMetadata, forwarded_for);
    for (const std::string& header : headers) context.AddMetadata("authorization", header);
    context.set_deadline(system_clock::now() + seconds(60));
    grpc::CompletionQueue queue;
    const auto call = stubs_[stub]->PrepareUnaryCall(&context, method, grpc::ByteBuffer(), &queue);
    call->StartCall();
    grpc::ByteBuffer answer;
    grpc::Status status;
    call->Finish(&answer, &status, &status);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return status;
  }
  // The whole table; `node`: whether callers can show a node's certificate.
  void ExpectTable(bool node) {
    for (const char* caller : kCallers) {
      if (caller == std::string(kNode) && !node) continue;
      const std::string stub = caller == std::string(kNode) ? kNode : kNobody;
      for (const auto& [method, needs] : kMethods) {
        const grpc::Status status = Call(stub, headers_[caller], method);
        EXPECT_EQ(status.error_code(), Expected(caller, needs))
            << caller << " " << method << ": " << status.error_message();
        for (const std::string& secret : secrets_)
          EXPECT_THAT(status.error_message(), Not(HasSubstr(secret)));
      }
      for (const char* method : kStrangers) {
        const grpc::Status status = Call(stub, headers_[caller], method);
        EXPECT_EQ(status.error_code(), Expected(caller, RpcNeeds::kNode)) << caller << " " << method;
      }
    }
  }

  const testing::TempDir temp_ = testing::TempDir::InMemory();
  const std::string keys_ = temp_ / "keys.json";
  std::map<std::string, std::vector<std::string>> headers_;
  std::vector<std::string> secrets_;
  std::map<std::string, NodeCertificate> nodes_;
  std::shared_ptr<Access> access_;
  std::unique_ptr<Anything> anything_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;  // goes before what it serves
  std::map<std::string, std::unique_ptr<grpc::GenericStub>> stubs_;
};

TEST(GrpcAccess, EveryMethodIsInTheTable) {
  std::set<std::string> there;
  for (const google::protobuf::FileDescriptor* file :
       {inference::v1::GenerateRequest::descriptor()->file(), cluster::v1::JoinRequest::descriptor()->file(),
        cluster::v1::DescribeRequest::descriptor()->file(), cluster::v1::Frame::descriptor()->file(),
        memory::v1::AddRequest::descriptor()->file(), tasks::v1::TakeRequest::descriptor()->file(),
        tasks::v1::Task::descriptor()->file(), lf::a2a::v1::Task::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      const google::protobuf::ServiceDescriptor* service = file->service(s);
      for (int m = 0; m < service->method_count(); ++m)
        there.insert("/" + service->full_name() + "/" + service->method(m)->name());
    }
  }
  EXPECT_GE(there.size(), 12u);
  for (const std::string& method : there)
    EXPECT_TRUE(kMethods.contains(method)) << method << ": say in this test's table who may call it";
  for (const auto& [method, needs] : kMethods) {
    EXPECT_TRUE(there.contains(method) || method.starts_with("/grpc.")) << method << " is no more";
    EXPECT_EQ(NeedsOf(method), needs) << method;
  }
}

TEST_F(GrpcAccessTest, WithCertificatesNodesMayAllAndOthersWhatTheirKeySays) {
  const testing::RecordingLog log;
  const NodeCertificate& server = nodes_["server"];
  Serve(*MakeServerCredentials(&server, "127.0.0.1:0", access_));
  Connect(kNode, *MakeChannelCredentials(&nodes_["client"], "127.0.0.1:0", false));
  Connect(kNobody, grpc::SslCredentials(
                       {.pem_root_certs = server.authority, .pem_private_key = {}, .pem_cert_chain = {}}));
  ExpectTable(true);
  for (const auto& line : log.lines()) {
    for (const std::string& secret : secrets_) EXPECT_THAT(line.message, Not(HasSubstr(secret)));
  }
}

TEST_F(GrpcAccessTest, OnLoopbackKeysAreWantedWithoutTls) {
  Serve(*MakeServerCredentials(nullptr, "127.0.0.1:0", access_));
  Connect(kNobody, grpc::InsecureChannelCredentials());
  ExpectTable(false);
}

TEST_F(GrpcAccessTest, AnyCertificateWillDoWhereThereAreNoNodes) {
  const NodeCertificate& server = nodes_["server"];
  Serve(MakeReloadedCredentials(
      [&server] { return ServerPems{.authority = "", .certificate = server.certificate, .key = server.key}; },
      false, access_));
  Connect(kNobody, grpc::SslCredentials(
                       {.pem_root_certs = server.authority, .pem_private_key = {}, .pem_cert_chain = {}}));
  // A node's certificate is not looked at.
  Connect(kNode, *MakeChannelCredentials(&nodes_["client"], "127.0.0.1:0", false));
  ExpectTable(false);
  EXPECT_EQ(Call(kNode, {}, "/omni.cluster.v1.Admin/Status").error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(GrpcAccessTest, AStrangersCertificateGetsNoConnection) {
  ASSERT_TRUE(MakeAuthority(temp_ / "other").ok());
  ASSERT_TRUE(MakeNodeCertificate(temp_ / "other", "stranger", {"127.0.0.1"}, temp_ / "stranger").ok());
  NodeCertificate stranger = *LoadCredentials(temp_ / "stranger");
  stranger.authority = nodes_["server"].authority;
  Serve(*MakeServerCredentials(&nodes_["server"], "127.0.0.1:0", access_));
  Connect(kNode, *MakeChannelCredentials(&stranger, "127.0.0.1:0", false));
  EXPECT_EQ(Call(kNode, headers_[kAdmin], "/omni.cluster.v1.Admin/Status").error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(GrpcAccessTest, TellsWhoCalls) {
  const NodeCertificate& server = nodes_["server"];
  Serve(*MakeServerCredentials(&server, "127.0.0.1:0", access_));
  Connect(kNode, *MakeChannelCredentials(&nodes_["client"], "127.0.0.1:0", false));
  Connect(kNobody, grpc::SslCredentials(
                       {.pem_root_certs = server.authority, .pem_private_key = {}, .pem_cert_chain = {}}));
  const char* const method = "/omni.inference.v1.Inference/GenerateStream";
  EXPECT_EQ(Call(kNobody, headers_[kInfer], method).error_message(), "infer infer");
  EXPECT_EQ(Call(kNode, {}, method).error_message(), "node/client infer,tasks,admin");
  EXPECT_EQ(Call(kNobody, {}, "/grpc.health.v1.Health/Check").error_message(), "-");
  // A node may say whom it asks for, and nobody else.
  EXPECT_EQ(Call(kNode, {}, method, "zo\xc3\xab").error_message(), "zo\xc3\xab infer,tasks,admin");
  EXPECT_EQ(Call(kNode, {}, method, "").error_message(), "node/client infer,tasks,admin");
  EXPECT_EQ(Call(kNobody, headers_[kInfer], method, "other").error_message(), "infer infer");
}

TEST_F(GrpcAccessTest, AKeyIsNotSentInTheClear) {
  for (const char* address : {"0.0.0.0:0", "10.0.0.1:7300", "127.0.0.2:0", "node.example:1", "[::]:0"}) {
    const absl::Status status = MakeServerCredentials(nullptr, address, access_).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << address;
    EXPECT_THAT(std::string(status.message()), HasSubstr("in the clear"));
  }
  for (const char* address : {"localhost:0", "[::1]:0"})
    EXPECT_TRUE(MakeServerCredentials(nullptr, address, access_).ok()) << address;
}

}  // namespace
}  // namespace omni
