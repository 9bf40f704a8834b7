// omni.inference.v1 in front of a swarm, over loopback, for clients that a test is.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "cluster/grpc_errors.h"
#include "cluster/inference_service.h"
#include "cluster/node.h"
#include "engine/text/prompt.h"
#include "omni/inference/v1/inference.grpc.pb.h"
#include "tests/store/model/streamed_fixture.h"
#include "tests/testing/node_backend.h"

namespace omni::testing {

namespace pb = ::omni::inference::v1;
using grpc::StatusCode;

// A node, and what a test wants to be wrong with it.
class TestBackend : public InferenceBackend {
 public:
  explicit TestBackend(Node& node) : node_(node) {}
  absl::Status Serving() override { return serving; }
  std::string Elsewhere() override { return elsewhere; }
  absl::StatusOr<std::string> PolytopeHash(const SafetyChoice& choice) override {
    return node_.PolytopeHash(choice);
  }
  absl::StatusOr<HeldMemory> HoldMemory(const std::string& caller, const MemoryChoice& choice) override {
    return node_.HoldMemory(caller, choice);
  }
  absl::StatusOr<std::string> AdapterHash(const AdapterChoice& choice) override {
    return node_.AdapterHash(choice);
  }
  absl::StatusOr<std::vector<OfferedAdapter>> Adapters() override { return node_.Adapters(); }
  absl::StatusOr<std::unique_ptr<SessionHandle>> Submit(GenerateRequest request,
                                                        SubmitOptions options) override {
    if (!submitting.ok()) return submitting;
    return node_.Submit(std::move(request), std::move(options));
  }
  const Tokenizer& tokenizer() override { return node_.tokenizer(); }
  int64_t max_context() override { return node_.max_context(); }
  std::string model_hash() override { return hash.empty() ? node_.model_hash() : hash; }
  std::string node() override { return node_.node(); }

  // Set while nothing is under way.
  absl::Status serving, submitting;
  std::string elsewhere, hash;

 private:
  NodeBackend node_;
};

class InferenceFixture : public StreamedTest {
 protected:
  void SetUp() override {
    Pack(StreamedConfig());
    NodeOptions options;
    options.model = temp_ / "m";
    options.memory = temp_ / "memory";
    options.adapters = temp_ / "adapters";
    options.swarm.threads = 1;
    auto node = Node::Start(nullptr, options);
    ASSERT_TRUE(node.ok()) << node.status();
    node_ = *std::move(node);
    backend_ = std::make_unique<TestBackend>(*node_);
    options_.model_name = "small";
    options_.model = node_->model().config();
    options_.state_bytes = 64 << 20;
    Start();
  }
  void TearDown() override {
    Stop();
    backend_ = nullptr;
    node_ = nullptr;
  }
  void Start() {
    auto database = Database::Open(temp_ / "sessions", {});
    ASSERT_TRUE(database.ok()) << database.status();
    database_ = *std::move(database);
    log_ = MakeDatabaseSessionLog(*database_);
    saved_ = MakeDatabaseSavedSessions(*database_);
    service_ = std::make_unique<InferenceService>(options_, *backend_, *log_, *saved_);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.SetMaxReceiveMessageSize(64 << 20);
    builder.RegisterService(service_->service());
    server_ = builder.BuildAndStart();
    stub_ = pb::Inference::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials()));
  }
  void Stop() {
    if (service_ != nullptr) service_->EndAll(absl::UnavailableError("the test is over"));
    if (server_ != nullptr) server_->Shutdown();
    server_ = nullptr;
    service_ = nullptr;
    saved_ = nullptr;
    log_ = nullptr;
    database_ = nullptr;
  }
  // What was in memory is lost.
  void Restart() {
    Stop();
    Start();
  }

  static pb::GenerateRequest Request(const std::string& prompt, uint64_t tokens, uint64_t seed = 1) {
    pb::GenerateRequest request;
    request.set_prompt(prompt);
    request.set_max_tokens(tokens);
    request.set_ignore_end_of_text(true);
    request.mutable_sampler()->set_temperature(0.9f);
    request.mutable_sampler()->set_top_p(1);
    request.mutable_sampler()->set_repetition_penalty(1);
    request.mutable_sampler()->set_seed(seed);
    return request;
  }
  void AddKey(grpc::ClientContext& context) {
    if (!key_.empty()) context.AddMetadata("authorization", "Bearer " + key_);
  }
  struct Whole {
    grpc::Status status;
    pb::Generation answer;
    std::vector<int32_t> tokens;
  };
  Whole Generate(const pb::GenerateRequest& request) {
    grpc::ClientContext context;
    AddKey(context);
    Whole whole;
    whole.status = stub_->Generate(&context, request, &whole.answer);
    for (const pb::Token& token : whole.answer.tokens()) whole.tokens.push_back(token.id());
    return whole;
  }
  std::vector<int32_t> MustGenerate(const pb::GenerateRequest& request) {
    const Whole whole = Generate(request);
    EXPECT_TRUE(whole.status.ok()) << whole.status.error_message();
    return whole.tokens;
  }
  // What the engine alone says after these tokens.
  std::vector<int32_t> Alone(const std::vector<int32_t>& prompt, const pb::GenerateRequest& like) {
    GenerateRequest request;
    for (int32_t token : prompt) request.prompt.emplace_back(token);
    request.max_tokens = static_cast<int64_t>(like.max_tokens());
    request.stop_at_end_of_text = false;
    request.sampler.temperature = like.sampler().temperature();
    request.sampler.top_p = like.sampler().top_p();
    request.sampler.top_k = like.sampler().top_k();
    request.sampler.min_p = like.sampler().min_p();
    request.sampler.repetition_penalty = like.sampler().repetition_penalty();
    request.sampler.repetition_window = like.sampler().repetition_window();
    request.sampler.seed = like.sampler().seed();
    auto result = node_->swarm().Generate(std::move(request), nullptr);
    EXPECT_TRUE(result.ok()) << result.status();
    std::vector<int32_t> tokens;
    for (TokenId token : result->tokens) tokens.push_back(token.value);
    return tokens;
  }
  std::vector<int32_t> Ids(const std::vector<TokenId>& tokens) {
    std::vector<int32_t> ids;
    for (TokenId token : tokens) ids.push_back(token.value);
    return ids;
  }
  std::vector<int32_t> PromptIds(const std::string& text) {
    return Ids(PromptTokens(backend_->tokenizer(), text));
  }
  pb::Session GetSession(const std::string& id) {
    grpc::ClientContext context;
    AddKey(context);
    pb::GetSessionRequest request;
    request.set_id(id);
    request.set_with_tokens(true);
    pb::Session session;
    last_ = stub_->GetSession(&context, request, &session);
    return session;
  }
  static std::vector<int32_t> TokensOf(const pb::Session& session) {
    return {session.token_ids().begin(), session.token_ids().end()};
  }
  std::vector<std::string> List(uint32_t page = 0) {
    std::vector<std::string> ids;
    pb::ListSessionsRequest request;
    request.set_page_size(page);
    do {
      grpc::ClientContext context;
      AddKey(context);
      pb::ListSessionsResponse response;
      last_ = stub_->ListSessions(&context, request, &response);
      EXPECT_TRUE(last_.ok()) << last_.error_message();
      for (const pb::Session& session : response.sessions()) ids.push_back(session.id());
      request.set_page_token(response.next_page_token());
    } while (!request.page_token().empty());
    return ids;
  }
  bool Fork(const std::string& id, const std::string& to) {
    grpc::ClientContext context;
    AddKey(context);
    pb::ForkSessionRequest request;
    request.set_id(id);
    request.set_to(to);
    pb::Session session;
    last_ = stub_->ForkSession(&context, request, &session);
    EXPECT_EQ(session.forked_from(), last_.ok() ? id : "");
    return last_.ok();
  }
  bool Delete(const std::string& id) {
    grpc::ClientContext context;
    AddKey(context);
    pb::DeleteSessionRequest request;
    request.set_id(id);
    pb::DeleteSessionResponse response;
    last_ = stub_->DeleteSession(&context, request, &response);
    return last_.ok();
  }
  void ExpectError(const grpc::Status& status, StatusCode code, const std::string& reason) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_EQ(DetailsOf(status).reason, reason) << status.error_message();
  }
  bool WaitForNoSessions() {
    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (std::chrono::steady_clock::now() < until) {
      const SwarmStats stats = node_->swarm().Stats();
      if (stats.active == 0 && stats.queued == 0) return true;
      std::this_thread::yield();
    }
    return false;
  }

  std::unique_ptr<Node> node_;
  std::unique_ptr<TestBackend> backend_;
  InferenceOptions options_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<SessionLog> log_;
  std::unique_ptr<SavedSessions> saved_;
  std::unique_ptr<InferenceService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<pb::Inference::Stub> stub_;
  std::string key_;
  grpc::Status last_;
};

}  // namespace omni::testing
