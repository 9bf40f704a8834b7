// What is asked of a node that does not lead, where the regions are at other nodes than the one that does: it
// is what one process alone would say.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cluster/cluster_client.h"
#include "cluster/grpc_errors.h"
#include "cluster/grpc_status.h"
#include "cluster/node.h"
#include "engine/text/prompt.h"
#include "omni/inference/v1/inference.grpc.pb.h"
#include "store/pack/pack.h"
#include "tests/cluster/http/raw_client.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/node_process.h"
#include "tests/testing/temp_dir.h"

namespace omni::testing {
namespace {

namespace pb = ::omni::inference::v1;
using nlohmann::json;
using ::testing::HasSubstr;

class ForwardingTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    model_dir_ = std::make_unique<TempDir>();
    ASSERT_TRUE(WriteRandomCheckpoint(*model_dir_ / "checkpoint", SmallConfig(), 5).ok());
    ASSERT_TRUE(PackModel(*model_dir_ / "checkpoint", Model(), {}).ok());
    NodeOptions options;
    options.model = Model();
    auto node = Node::Start(nullptr, options);
    ASSERT_TRUE(node.ok()) << node.status();
    alone_ = *std::move(node);
  }
  static void TearDownTestSuite() {
    alone_.reset();
    model_dir_.reset();
  }
  static std::string Model() { return *model_dir_ / "model"; }

  // The one that leads offers no memory for experts, so that every region is to be at the other.
  void StartLeader() {
    leader_ = std::make_unique<NodeProcess>(
        OMNI_PROGRAM,
        std::vector<std::string>{"-m", Model(), "--listen", "127.0.0.1:0", "--grpc", grpc_, "--name",
                                 "leader", "--offer-ram", "1", "--state", dir_ / "state", "--threads", "1",
                                 "--log-level", "info"},
        dir_ / "leader.log", -1, "serve");
    grpc_ = leader_->WaitForGrpcAddress();
    ASSERT_NE(grpc_, "") << leader_->Log();
    http_ = leader_->WaitForAddress();
  }
  void StartOther() {
    other_ = std::make_unique<NodeProcess>(
        OMNI_PROGRAM,
        std::vector<std::string>{"-m", Model(), "--listen", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--name",
                                 "other", "--join", grpc_, "--threads", "1", "--log-level", "info"},
        dir_ / "other.log", -1, "serve");
    const std::string address = other_->WaitForGrpcAddress();
    ASSERT_NE(address, "") << other_->Log();
    other_http_ = other_->WaitForAddress();
    stub_ = pb::Inference::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
    auto client = ClusterClient::Make({.addresses = {grpc_}});
    ASSERT_TRUE(client.ok()) << client.status();
    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    const auto spread = [](const ClusterReport& report) {
      return !report.view.regions.empty() &&
             std::all_of(report.view.regions.begin(), report.view.regions.end(), [](const RegionView& r) {
               return r.record.owner.value == "other" && r.record.target.value.empty();
             });
    };
    while (true) {
      const auto report = (*client)->Status();
      if (report.ok() && spread(*report)) return;
      ASSERT_LT(std::chrono::steady_clock::now(), until) << leader_->Log() << other_->Log();
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }

  static pb::GenerateRequest Ask(const std::string& prompt, uint64_t tokens) {
    pb::GenerateRequest ask;
    ask.set_prompt(prompt);
    ask.set_max_tokens(tokens);
    ask.set_ignore_end_of_text(true);
    ask.mutable_sampler()->set_temperature(0.9f);
    ask.mutable_sampler()->set_top_p(1);
    ask.mutable_sampler()->set_repetition_penalty(1);
    ask.mutable_sampler()->set_seed(7);
    return ask;
  }
  // What one process says after `prompt`, with the experts of each token.
  struct Want {
    std::vector<int32_t> tokens;
    std::vector<std::vector<uint32_t>> experts;
  };
  static Want Alone(std::vector<TokenId> prompt, const pb::GenerateRequest& ask) {
    GenerateRequest request;
    request.prompt = std::move(prompt);
    request.max_tokens = static_cast<int64_t>(ask.max_tokens());
    request.sampler.temperature = ask.sampler().temperature();
    request.sampler.top_k = ask.sampler().top_k();
    request.sampler.top_p = ask.sampler().top_p();
    request.sampler.min_p = ask.sampler().min_p();
    request.sampler.repetition_penalty = ask.sampler().repetition_penalty();
    request.sampler.repetition_window = ask.sampler().repetition_window();
    request.sampler.seed = ask.sampler().seed();
    request.stop_at_end_of_text = false;
    request.routes = true;
    Want want;
    const auto result = alone_->swarm().Generate(std::move(request), [&](const GenerateEvent& event) {
      if (!event.is_token) return true;
      want.tokens.push_back(event.token.value);
      want.experts.emplace_back();
      for (ExpertId expert : event.routes) want.experts.back().push_back(static_cast<uint32_t>(expert.value));
      return true;
    });
    EXPECT_TRUE(result.ok()) << result.status();
    return want;
  }
  static std::vector<TokenId> Prompt(const std::string& text) {
    return PromptTokens(alone_->model().tokenizer(), text);
  }

  struct Streamed {
    std::vector<int32_t> tokens;
    std::vector<std::vector<uint32_t>> experts;
    int begun = 0;
    std::string reason;
    grpc::Status status;
  };
  Streamed Stream(const pb::GenerateRequest& ask, const std::function<void(size_t)>& at = {}) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(2));
    const auto reader = stub_->GenerateStream(&context, ask);
    Streamed streamed;
    pb::GenerateResponse message;
    while (reader->Read(&message)) {
      streamed.begun += message.has_begun();
      if (message.has_finished()) streamed.reason = message.finished().reason();
      if (!message.has_token()) continue;
      streamed.tokens.push_back(message.token().id());
      streamed.experts.emplace_back(message.token().experts().begin(), message.token().experts().end());
      EXPECT_EQ(message.token().number(), ask.have() + streamed.tokens.size());
      if (at) at(streamed.tokens.size());
    }
    streamed.status = reader->Finish();
    return streamed;
  }
  pb::Generation Whole(const pb::GenerateRequest& ask) {
    grpc::ClientContext context;
    pb::Generation answer;
    const grpc::Status status = stub_->Generate(&context, ask, &answer);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return answer;
  }
  static std::vector<int32_t> TokensOf(const pb::Generation& answer) {
    std::vector<int32_t> tokens;
    for (const pb::Token& token : answer.tokens()) tokens.push_back(token.id());
    return tokens;
  }
  static json Embedding(const std::string& http, int want_status) {
    RawClient client(http);
    client.Send(Post("/v1/embeddings", R"({"input": ["the sea and the sky", "a"]})"));
    const auto answer = client.Read();
    EXPECT_TRUE(answer.has_value());
    if (!answer.has_value()) return {};
    EXPECT_EQ(answer->status, want_status) << answer->body;
    return json::parse(answer->body, nullptr, false);
  }

  inline static std::unique_ptr<TempDir> model_dir_;
  inline static std::unique_ptr<Node> alone_;
  TempDir dir_;
  std::string grpc_ = "127.0.0.1:0", http_, other_http_;
  std::unique_ptr<NodeProcess> leader_, other_;
  std::unique_ptr<pb::Inference::Stub> stub_;
};

TEST_F(ForwardingTest, AnswersAreThoseOfOneProcessWithTheirExperts) {
  StartLeader();
  StartOther();
  pb::GenerateRequest ask = Ask("the sea", 60);
  ask.set_routes(true);
  ask.set_alternatives(3);
  const Want want = Alone(Prompt("the sea"), ask);
  const Streamed streamed = Stream(ask);
  ASSERT_TRUE(streamed.status.ok()) << streamed.status.error_message();
  EXPECT_EQ(streamed.tokens, want.tokens);
  EXPECT_EQ(streamed.experts, want.experts);
  EXPECT_EQ(streamed.begun, 1);
  EXPECT_EQ(streamed.reason, "length");
  const pb::Generation whole = Whole(ask);
  EXPECT_EQ(TokensOf(whole), want.tokens);
  EXPECT_EQ(whole.begun().coordinator(), "leader");
  EXPECT_EQ(whole.tokens(0).alternatives_size(), 3);
  // What is refused is refused in the words of the one that leads.
  ask.set_alternatives(1000);
  const grpc::Status refused = Stream(ask).status;
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(refused.error_message(), HasSubstr("alternatives is 1000"));
  EXPECT_EQ(DetailsOf(refused).reason, "INVALID_ARGUMENT");
}

TEST_F(ForwardingTest, SavedSessionsAreGoneOnWithAndForked) {
  StartLeader();
  StartOther();
  pb::GenerateRequest first = Ask("the sea", 30);
  first.set_save_as("talk");
  const pb::Generation begun = Whole(first);
  std::vector<TokenId> all = Prompt("the sea");
  for (int32_t token : TokensOf(begun)) all.emplace_back(token);
  EXPECT_EQ(begun.finished().session().tokens(), all.size());

  grpc::ClientContext fork_context, list_context, delete_context, none_context;
  pb::ForkSessionRequest fork;
  fork.set_id("talk");
  fork.set_to("other-way");
  pb::Session session;
  ASSERT_TRUE(stub_->ForkSession(&fork_context, fork, &session).ok());
  for (TokenId token : alone_->model().tokenizer().Encode(" and then")) all.push_back(token);
  for (const char* from : {"talk", "other-way"}) {
    pb::GenerateRequest on = Ask(" and then", 30);
    on.set_session(from);
    EXPECT_EQ(TokensOf(Whole(on)), Alone(all, on).tokens) << from;
  }
  pb::ListSessionsResponse list;
  ASSERT_TRUE(stub_->ListSessions(&list_context, {}, &list).ok());
  EXPECT_EQ(list.sessions_size(), 2);
  pb::DeleteSessionRequest remove;
  remove.set_id("talk");
  pb::DeleteSessionResponse removed;
  EXPECT_TRUE(stub_->DeleteSession(&delete_context, remove, &removed).ok());
  const grpc::Status none = stub_->DeleteSession(&none_context, remove, &removed);
  EXPECT_EQ(none.error_code(), grpc::StatusCode::NOT_FOUND) << none.error_message();
  EXPECT_EQ(DetailsOf(none).reason, "SESSION_NOT_FOUND");
}

TEST_F(ForwardingTest, EmbeddingsAreTheSameWhereverTheRegionsAre) {
  StartLeader();
  const json before = Embedding(http_, 200);
  StartOther();
  EXPECT_EQ(Embedding(http_, 200)["data"], before["data"]);
  EXPECT_THAT(Embedding(other_http_, 503).dump(), HasSubstr("ask " + grpc_));
}

TEST_F(ForwardingTest, ANamedStreamGoesOnWhenTheOneThatLeadsIsKilledAndStartedAgain) {
  StartLeader();
  StartOther();
  pb::GenerateRequest ask = Ask("the sea", 400);
  ask.set_request_id("goes-on");
  const Streamed streamed = Stream(ask, [&](size_t tokens) {
    if (tokens != 20) return;
    leader_->Kill();
    StartLeader();
  });
  ASSERT_TRUE(streamed.status.ok()) << streamed.status.error_message();
  EXPECT_EQ(streamed.tokens, Alone(Prompt("the sea"), ask).tokens);
  EXPECT_EQ(streamed.begun, 1);
}

TEST_F(ForwardingTest, AStreamWithoutANameEndsWithTheOneThatLeads) {
  StartLeader();
  StartOther();
  const Streamed streamed = Stream(Ask("the sea", 1 << 20), [&](size_t tokens) {
    if (tokens == 20) leader_->Kill();
  });
  EXPECT_GE(streamed.tokens.size(), 20u);
  EXPECT_EQ(streamed.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(streamed.status.error_message(), HasSubstr("the coordinator at " + grpc_));
  EXPECT_TRUE(DetailsOf(streamed.status).retry.has_value());
}

TEST_F(ForwardingTest, TheOneThatLeadsKnowsRequestsByTheNamesThatCallersGaveThem) {
  StartLeader();
  StartOther();
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "over-grpc");
  pb::Generation answer;
  ASSERT_TRUE(stub_->Generate(&context, Ask("the sea", 3), &answer).ok());
  const auto told = context.GetServerInitialMetadata().find("x-request-id");
  ASSERT_NE(told, context.GetServerInitialMetadata().end());
  EXPECT_EQ(std::string(told->second.data(), told->second.size()), "over-grpc");
  grpc::ClientContext streamed;
  streamed.AddMetadata("x-request-id", "streamed");
  const auto reader = stub_->GenerateStream(&streamed, Ask("the sea", 3));
  for (pb::GenerateResponse message; reader->Read(&message);) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  RawClient client(other_http_);
  client.Send(
      Post("/v1/completions", R"({"prompt": "the sea", "max_tokens": 3})", "X-Request-Id: over-http\r\n"));
  const auto completed = client.Read();
  ASSERT_TRUE(completed.has_value());
  EXPECT_EQ(completed->status, 200) << completed->body;
  EXPECT_EQ(other_->Interrupt(), 0);
  EXPECT_EQ(leader_->Interrupt(), 0);
  for (const char* name : {"request=over-grpc", "request=streamed", "request=over-http"})
    EXPECT_THAT(leader_->Log(), HasSubstr(name));
  for (const char* line : {"Generate: OK after", "GenerateStream: OK after", "request=over-grpc",
                           "request=streamed", "tokens=3"})
    EXPECT_THAT(other_->Log(), HasSubstr(line));
}

TEST_F(ForwardingTest, WhatWasForwardedIsNotForwardedAgain) {
  StartLeader();
  StartOther();
  grpc::ClientContext context;
  context.AddMetadata("omni-forwarded-bin", "");
  pb::Generation answer;
  const grpc::Status status = stub_->Generate(&context, Ask("the sea", 3), &answer);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailsOf(status).reason, "NOT_LEADING");
  const auto hint = context.GetServerTrailingMetadata().find(kCoordinatorMetadata);
  ASSERT_NE(hint, context.GetServerTrailingMetadata().end());
  EXPECT_EQ(std::string(hint->second.data(), hint->second.size()), grpc_);
}

}  // namespace
}  // namespace omni::testing
