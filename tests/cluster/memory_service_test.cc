// omni.memory.v1 and /v1/memory over a folder, for clients that a test is.
#include "cluster/memory_service.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "cluster/access_keys.h"
#include "cluster/grpc_access.h"
#include "cluster/grpc_errors.h"
#include "cluster/memory_doors.h"
#include "cluster/memory_request.h"
#include "omni/memory/v1/memory.grpc.pb.h"
#include "tests/testing/malloc_count.h"
#include "tests/testing/temp_dir.h"

namespace omni::testing {
namespace {

namespace pb = ::omni::memory::v1;
using grpc::StatusCode;
using ::testing::HasSubstr;

class MemoryServiceTest : public ::testing::Test {
 protected:
  void SetUp() override { Start(dir_ / "memory"); }
  void TearDown() override { Stop(); }
  void Start(const std::string& folder) {
    MemoryServiceOptions options;
    options.access = access_.get();
    options.serving = [this] { return serving_; };
    options.elsewhere = [] { return std::string("127.0.0.1:7300"); };
    options.most_waiting = most_waiting_;
    auto doors = MemoryDoors::Make(std::move(options), folder, budget_);
    ASSERT_TRUE(doors.ok()) << doors.status();
    doors_ = *std::move(doors);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.SetMaxReceiveMessageSize(64 << 20);
    builder.RegisterService(&doors_->service());
    server_ = builder.BuildAndStart();
    stub_ = pb::Memory::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials()));
  }
  void Stop() {
    if (server_ != nullptr) server_->Shutdown();
    server_ = nullptr;
    doors_ = nullptr;
  }
  void Show(grpc::ClientContext& context) const {
    if (!key_.empty()) context.AddMetadata("authorization", "Bearer " + key_);
  }
  static pb::AddRequest Facts(const std::string& scope, int from, int to) {
    pb::AddRequest request;
    request.set_scope(scope);
    for (int i = from; i < to; ++i) {
      pb::Association& one = *request.add_associations();
      one.set_key(absl::StrCat("number ", i, " n", i));
      one.set_value(absl::StrCat("value ", i));
    }
    return request;
  }
  grpc::Status Add(const pb::AddRequest& request) {
    grpc::ClientContext context;
    Show(context);
    return stub_->Add(&context, request, &added_);
  }
  std::string Ask(const std::string& scope, const std::string& key) {
    grpc::ClientContext context;
    Show(context);
    pb::AskRequest request;
    request.set_scope(scope);
    request.set_key(key);
    pb::AskResponse response;
    const grpc::Status status = stub_->Ask(&context, request, &response);
    if (!status.ok()) return status.error_message();
    return response.found() ? response.value() : "(nothing)";
  }
  grpc::Status Forget(const pb::ForgetRequest& request, uint64_t* forgotten) {
    grpc::ClientContext context;
    Show(context);
    pb::ForgetResponse response;
    const grpc::Status status = stub_->Forget(&context, request, &response);
    *forgotten = response.forgotten();
    return status;
  }
  pb::StatsResponse Stats() {
    grpc::ClientContext context;
    Show(context);
    pb::StatsResponse response;
    const grpc::Status status = stub_->Stats(&context, {}, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  grpc::Status Import(const std::vector<pb::AddRequest>& messages) {
    grpc::ClientContext context;
    Show(context);
    const auto writer = stub_->Import(&context, &added_);
    for (const pb::AddRequest& message : messages) {
      if (!writer->Write(message)) break;
    }
    writer->WritesDone();
    return writer->Finish();
  }

  TempDir dir_;
  absl::Status serving_;
  int64_t most_waiting_ = 100, budget_ = INT64_MAX;
  std::unique_ptr<Access> access_;
  std::string key_;
  std::unique_ptr<MemoryDoors> doors_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<pb::Memory::Stub> stub_;
  pb::AddResponse added_;
};

TEST_F(MemoryServiceTest, WhatIsAddedIsFoundThenAndAfterARestart) {
  EXPECT_EQ(Ask("s", "number 3 n3"), "(nothing)");
  EXPECT_FALSE(std::filesystem::exists(dir_ / "memory")) << "who only asks leaves nothing behind";
  ASSERT_TRUE(Add(Facts("s", 0, 10)).ok());
  EXPECT_EQ(added_.added(), 10u);
  EXPECT_EQ(Ask("s", "Number 3, n3"), "value 3");
  EXPECT_EQ(Ask("", "number 3 n3"), "(nothing)");
  ASSERT_TRUE(Add(Facts("", 3, 4)).ok());
  EXPECT_EQ(Ask("default", "number 3 n3"), "value 3");
  Stop();
  Start(dir_ / "memory");
  EXPECT_EQ(Ask("s", "number 3 n3"), "value 3");
  const pb::StatsResponse stats = Stats();
  ASSERT_EQ(stats.scopes_size(), 2);
  EXPECT_EQ(stats.scopes(0).scope(), "default");
  EXPECT_EQ(stats.scopes(1).keys(), 10u);
  EXPECT_THAT(stats.scopes(1).version(), ::testing::StartsWith("10-"));
}

TEST_F(MemoryServiceTest, AnImportIsAsLongAsItLikesAndSaysWhatBecameOfIt) {
  std::vector<pb::AddRequest> messages;
  for (int i = 0; i < 5; ++i) messages.push_back(Facts(i == 0 ? "s" : "", 20 * i, 20 * i + 20));
  ASSERT_TRUE(Import(messages).ok());
  EXPECT_EQ(added_.added(), 100u);
  EXPECT_EQ(Ask("s", "number 99 n99"), "value 99");
  messages[3].mutable_associations(2)->set_key("?!");
  const grpc::Status cut = Import(messages);
  EXPECT_EQ(cut.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(cut.error_message(), HasSubstr("has no letter and no digit"));
  EXPECT_THAT(cut.error_message(), HasSubstr("60 associations before were added"));
  messages.resize(2);
  messages[1].set_scope("t");
  EXPECT_THAT(Import(messages).error_message(), HasSubstr("a later message names another"));
  EXPECT_TRUE(Import({}).ok());
  EXPECT_EQ(added_.added(), 0u);
}

// Those not asked about for longest go; what is asked about again is read again.
TEST_F(MemoryServiceTest, ScopesInMemoryTakeASixteenthOfTheBudget) {
  const std::vector<std::string> scopes = {"a", "b", "c", "d", "e", "f"};
  for (const std::string& scope : scopes) ASSERT_TRUE(Add(Facts(scope, 0, 2)).ok());
  constexpr int64_t kScope = 8'400'000, kSlack = 1 << 20;  // docs/memory.md
  // What they take when all have been asked about, and the most that there was.
  const auto asked = [&](int64_t budget, int64_t* most) {
    budget_ = budget;
    Stop();
    Start(dir_ / "memory");
    EXPECT_EQ(Ask("nobodys", "x"), "(nothing)");  // the database is open
    const int64_t before = BytesInUse();
    *most = MostBytesOf([&] {
      for (int round = 0; round < 2; ++round) {
        for (const std::string& scope : scopes) EXPECT_EQ(Ask(scope, "number 1 n1"), "value 1") << budget;
      }
    });
    return BytesInUse() - before;
  };
  int64_t most = 0;
  const int64_t all = asked(INT64_MAX, &most), two = asked(16 * (2 * kScope + kSlack), &most);
  if (!kCountsMalloc) GTEST_SKIP() << "all are found; what they take is the sanitizer's malloc's";
  EXPECT_GT(all, 6 * kScope - kSlack);
  EXPECT_GT(two, 2 * kScope - kSlack);
  EXPECT_LT(two, 2 * kScope + 2 * kSlack);
  EXPECT_LT(most, 3 * kScope + 2 * kSlack) << "one is made before another goes";
  // The one that is asked about stays, however little there is for it.
  const int64_t one = asked(16, &most);
  EXPECT_GT(one, kScope - kSlack);
  EXPECT_LT(one, kScope + kSlack);
}

TEST_F(MemoryServiceTest, AScopeThatThereIsNoMemoryForIsAnErrorUntilThereIs) {
  if (!kCountsMalloc) GTEST_SKIP() << "malloc is the sanitizer's, and has what it is asked for";
  ASSERT_TRUE(Add(Facts("s", 0, 3)).ok());
  RefuseAbove(4 << 20);  // its tables take more
  const std::string refused = Ask("s", "number 1 n1");
  EXPECT_EQ(Ask("none", "number 1 n1"), refused);
  RefuseAbove(INT64_MAX);
  EXPECT_EQ(refused, "there is no memory for this call; ask again later");
  EXPECT_EQ(Ask("s", "number 1 n1"), "value 1");
  // What is added while there is none for its copy is on disk, and found.
  const auto held = doors_->memory()->Hold("", {"s", ""});
  ASSERT_TRUE(held.ok()) << held.status();
  RefuseAbove(4 << 20);
  EXPECT_TRUE(Add(Facts("s", 3, 6)).ok());
  RefuseAbove(INT64_MAX);
  EXPECT_EQ(Ask("s", "number 4 n4"), "value 4");
  EXPECT_EQ(Ask("s", "number 1 n1"), "value 1");
}

TEST_F(MemoryServiceTest, ForgetsAKeyOrAScope) {
  ASSERT_TRUE(Add(Facts("s", 0, 10)).ok());
  pb::ForgetRequest request;
  request.set_scope("s");
  uint64_t forgotten = 0;
  EXPECT_EQ(Forget(request, &forgotten).error_code(), StatusCode::INVALID_ARGUMENT);
  request.set_key("number 3 n3");
  ASSERT_TRUE(Forget(request, &forgotten).ok());
  EXPECT_EQ(forgotten, 1u);
  EXPECT_EQ(Ask("s", "number 3 n3"), "(nothing)");
  EXPECT_EQ(Ask("s", "number 4 n4"), "value 4");
  request.set_all(true);
  EXPECT_EQ(Forget(request, &forgotten).error_code(), StatusCode::INVALID_ARGUMENT);
  request.clear_key();
  ASSERT_TRUE(Forget(request, &forgotten).ok());
  EXPECT_EQ(forgotten, 9u);
  EXPECT_EQ(Stats().scopes_size(), 0);
}

TEST_F(MemoryServiceTest, EachCallerHasItsOwn) {
  const std::string file = dir_ / "keys.json";
  const auto now = std::chrono::time_point_cast<std::chrono::seconds>(std::chrono::system_clock::now());
  const std::string anna = CreateKey(file, "anna", Scope::kInfer, {}, now)->key,
                    bert = CreateKey(file, "bert", Scope::kInfer, {}, now)->key;
  access_ = *Access::Open(file);
  Stop();
  Start(dir_ / "memory");
  EXPECT_EQ(Add(Facts("s", 0, 3)).error_code(), StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Import({Facts("s", 0, 3)}).error_code(), StatusCode::UNAUTHENTICATED);
  key_ = anna;
  ASSERT_TRUE(Add(Facts("s", 0, 3)).ok());
  EXPECT_EQ(Ask("s", "number 1 n1"), "value 1");
  key_ = bert;
  EXPECT_EQ(Ask("s", "number 1 n1"), "(nothing)");
  EXPECT_EQ(Stats().scopes_size(), 0);
  pb::ForgetRequest request;
  request.set_scope("s");
  request.set_all(true);
  uint64_t forgotten = 0;
  ASSERT_TRUE(Forget(request, &forgotten).ok());
  EXPECT_EQ(forgotten, 0u);
  EXPECT_THAT(Ask("616e6e61~s", "number 1 n1"), HasSubstr("must have 1 to 64 letters"));
  key_ = anna;
  EXPECT_EQ(Ask("s", "number 1 n1"), "value 1");
  // What a key needs for it.
  EXPECT_EQ(NeedsOf("/omni.memory.v1.Memory/Add"), RpcNeeds::kInfer);
}

TEST_F(MemoryServiceTest, WhatCannotBeDoneIsRefusedAndSaysWhy) {
  pb::AddRequest request = Facts("no/scope", 0, 1);
  EXPECT_THAT(Add(request).error_message(), HasSubstr("memory scope 'no/scope'"));
  request = Facts("s", 0, kMostAssociations + 1);
  EXPECT_THAT(Add(request).error_message(), HasSubstr("more than 1000 or 16 MiB in one message"));
  request = Facts("s", 0, 20);
  for (pb::Association& one : *request.mutable_associations()) one.set_value(std::string(1 << 20, 'x'));
  EXPECT_THAT(Add(request).error_message(), HasSubstr("in one message"));
  request = Facts("s", 0, 1);
  request.mutable_associations(0)->set_key(std::string((64 << 10) + 1, 'x'));
  EXPECT_EQ(Add(request).error_code(), StatusCode::INVALID_ARGUMENT);
  request.mutable_associations(0)->clear_key();
  EXPECT_EQ(Add(request).error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(Ask("s", std::string((64 << 10) + 1, 'x')), HasSubstr("keys have up to 65536"));
  EXPECT_TRUE(Add(Facts("s", 0, 0)).ok());
  EXPECT_EQ(Stats().scopes_size(), 0);
}

TEST_F(MemoryServiceTest, WhoDoesNotLeadSaysWhoDoes) {
  serving_ = absl::UnavailableError("this node does not coordinate");
  const grpc::Status refused = Add(Facts("s", 0, 1));
  EXPECT_EQ(refused.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailsOf(refused).reason, "NOT_LEADING");
  EXPECT_EQ(DetailsOf(refused).metadata["coordinator"], "127.0.0.1:7300");
  EXPECT_EQ(Import({Facts("s", 0, 1)}).error_code(), StatusCode::UNAVAILABLE);
  serving_ = absl::OkStatus();
  Stop();
  Start("");
  EXPECT_THAT(Ask("s", "a key"), HasSubstr("this node remembers nothing"));
}

TEST_F(MemoryServiceTest, AFolderThatCannotBeUsedIsNamedUntilItCan) {
  Stop();
  std::filesystem::create_directory(dir_ / "file-parent");
  Start(dir_ / "file-parent/missing/memory");
  const grpc::Status refused = Add(Facts("s", 0, 1));
  EXPECT_FALSE(refused.ok());
  EXPECT_THAT(refused.error_message(), HasSubstr("file-parent/missing"));
  std::filesystem::create_directory(dir_ / "file-parent/missing");
  EXPECT_TRUE(Add(Facts("s", 0, 1)).ok());
}

TEST_F(MemoryServiceTest, OfTooManyCallsSomeAreToldToComeAgain) {
  Stop();
  most_waiting_ = 0;
  Start(dir_ / "memory");
  const grpc::Status refused = Add(Facts("s", 0, 1));
  EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(DetailsOf(refused).retry.has_value());
}

}  // namespace
}  // namespace omni::testing
