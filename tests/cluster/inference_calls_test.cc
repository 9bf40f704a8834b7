// What omni.inference.v1 answers: what clients get is what the engine alone gives.
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "tests/cluster/inference_fixture.h"
#include "tests/testing/adapters.h"
#include "tests/testing/polytopes.h"
#include "tests/testing/recording_log.h"

namespace omni::testing {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kEndless = 900'000;  // tokens: more than a test waits for

class InferenceCallsTest : public InferenceFixture {
 protected:
  static void WriteFileBytes(const std::string& path, const std::string& bytes) {
    std::ofstream(path + ".new", std::ios::binary) << bytes;
    std::filesystem::rename(path + ".new", path);
  }
  // The file is looked at once a second: until there is one, and another than `but`.
  void AwaitPolytope(const std::string& name, const std::string& but = "") {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (std::chrono::steady_clock::now() < until) {
      const auto hash = backend_->PolytopeHash({name, ""});
      if (hash.ok() && *hash != but) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    FAIL() << "the file was not read within 30 seconds";
  }
  // Asks, and goes away after three tokens.
  void BreakOff(const pb::GenerateRequest& request) {
    grpc::ClientContext context;
    const auto reader = stub_->GenerateStream(&context, request);
    pb::GenerateResponse message;
    for (int tokens = 0; tokens < 3 && reader->Read(&message);) tokens += message.has_token();
    context.TryCancel();
    while (reader->Read(&message)) {
    }
    reader->Finish();
  }
  void SaveAdapter(const std::string& name, uint64_t seed) {
    const Adapter adapter = RandomAdapter(node_->model().config(), node_->model().hash(), 0.15f, seed);
    ASSERT_TRUE(AdapterFiles(temp_ / "adapters").Save(name, adapter.Write()).ok());
  }
};

TEST_F(InferenceCallsTest, AWholeAnswerIsWhatTheEngineAloneSays) {
  const pb::GenerateRequest request = Request("the sea", 40);
  const Whole whole = Generate(request);
  ASSERT_TRUE(whole.status.ok()) << whole.status.error_message();
  EXPECT_EQ(whole.tokens, Alone(PromptIds("the sea"), request));
  EXPECT_EQ(whole.answer.finished().reason(), "length");
  EXPECT_EQ(whole.answer.begun().prompt_tokens(), PromptIds("the sea").size());
  std::string text;
  for (const pb::Token& token : whole.answer.tokens()) {
    text += token.text();
    EXPECT_FLOAT_EQ(token.log_probability(), std::log(token.probability()));
    EXPECT_EQ(token.alternatives_size(), 0);
    EXPECT_EQ(token.experts_size(), 0);
    EXPECT_FALSE(token.has_confidence());
  }
  EXPECT_EQ(whole.answer.text(), text + whole.answer.finished().text());
  // Tokens may stand in the prompt's place.
  pb::GenerateRequest by_tokens = request;
  by_tokens.clear_prompt();
  for (int32_t token : PromptIds("the sea")) by_tokens.add_tokens(token);
  EXPECT_EQ(MustGenerate(by_tokens), whole.tokens);
}

TEST_F(InferenceCallsTest, ATokenTellsItsAlternativesAndExpertsIfAsked) {
  pb::GenerateRequest request = Request("the sea", 10);
  const std::vector<int32_t> plain = MustGenerate(request);
  request.set_alternatives(5);
  request.set_routes(true);
  const Whole whole = Generate(request);
  EXPECT_EQ(whole.tokens, plain);
  int64_t expert_layers = 0;
  for (int64_t layer = 0; layer < config_.layers; ++layer) expert_layers += !config_.IsAttention(layer);
  for (const pb::Token& token : whole.answer.tokens()) {
    ASSERT_EQ(token.alternatives_size(), 5);
    EXPECT_GE(token.alternatives(0).probability(), token.probability());
    EXPECT_EQ(token.alternatives(0).text(),
              std::string(backend_->tokenizer().Bytes(TokenId(token.alternatives(0).id()))));
    for (int i = 1; i < 5; ++i)
      EXPECT_LE(token.alternatives(i).probability(), token.alternatives(i - 1).probability());
    EXPECT_EQ(token.experts_size(), expert_layers);
    for (uint32_t expert : token.experts()) EXPECT_LT(expert, config_.num_experts());
  }
}

TEST_F(InferenceCallsTest, ATokenTellsHowSureItIsIfPerspectivesAreAskedFor) {
  pb::GenerateRequest request = Request("the sea", 16);
  const std::vector<int32_t> plain = MustGenerate(request);
  request.set_perspectives("far,use=confidence,every=4,examine=0,tau=0");
  const Whole whole = Generate(request);
  EXPECT_EQ(whole.tokens, plain);
  uint64_t position = whole.answer.begun().prompt_tokens();
  for (const pb::Token& token : whole.answer.tokens()) {
    ASSERT_TRUE(token.has_confidence());
    const pb::Confidence& confidence = token.confidence();
    EXPECT_GE(confidence.confidence(), 0.0f);
    EXPECT_LE(confidence.confidence(), 1.0f);
    EXPECT_EQ(confidence.perspectives(), position % 4 == 0 ? 4u : 0u) << position;
    EXPECT_EQ(confidence.disagree(), position % 4 == 0) << position;
    EXPECT_EQ(confidence.agreement() > 0, position % 4 == 0) << position;
    EXPECT_FALSE(confidence.changed());
    ++position;
  }
}

TEST_F(InferenceCallsTest, ATokenTellsWhatAPolytopeAndAMemoryOfContextsDid) {
  const std::string file = temp_ / "m/polytopes.omni";
  pb::GenerateRequest request = Request("the sea the sea the sea", 24);
  const std::vector<int32_t> plain = MustGenerate(request);
  request.set_safety("tight");
  const Whole none = Generate(request);
  EXPECT_EQ(none.status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(none.status.error_message(), HasSubstr("there are none here"));
  WriteFileBytes(file, PolytopeBytes({RandomPolytope("tight", config_.d, 30, 0.3f, 1)}));
  AwaitPolytope("tight");
  const Whole whole = Generate(request);
  ASSERT_TRUE(whole.status.ok()) << whole.status.error_message();
  EXPECT_NE(whole.tokens, plain);
  EXPECT_EQ(whole.answer.begun().safety_hash().size(), 32u);
  int moved = 0;
  for (const pb::Token& token : whole.answer.tokens()) {
    ASSERT_TRUE(token.has_safety());
    EXPECT_FALSE(token.has_contexts());
    EXPECT_EQ(token.safety().distance() > 0, token.safety().half_spaces() > 0);
    moved += token.safety().distance() > 0;
  }
  EXPECT_GT(moved, 0);
  request.set_safety_hash(whole.answer.begun().safety_hash());
  EXPECT_EQ(MustGenerate(request), whole.tokens);
  request.clear_safety();
  EXPECT_EQ(Generate(request).status.error_code(), StatusCode::INVALID_ARGUMENT);
  request.clear_safety_hash();
  request.set_context_memory(true);
  const Whole remembered = Generate(request);
  ASSERT_TRUE(remembered.status.ok()) << remembered.status.error_message();
  EXPECT_TRUE(remembered.answer.begun().safety_hash().empty());
  int recalled = 0;
  for (const pb::Token& token : remembered.answer.tokens()) {
    ASSERT_TRUE(token.has_contexts());
    EXPECT_FALSE(token.has_safety());
    EXPECT_EQ(token.contexts().weight() > 0, token.contexts().order() > 0);
    recalled += token.contexts().order() > 0;
  }
  EXPECT_GT(recalled, 0);
}

// As when what was kept came back from a copy that is older: the client has more of the answer than there is.
TEST_F(InferenceCallsTest, AnAnswerWhoseEndIsKeptNoMoreGoesOnWhereItsClientIs) {
  pb::GenerateRequest request = Request("the sea", 3000);
  const std::vector<int32_t> want = MustGenerate(request);
  request.set_request_id("one");
  BreakOff(request);
  EXPECT_TRUE(WaitForNoSessions());
  const testing::RecordingLog log;
  constexpr int kHave = 2900;
  grpc::ClientContext context;
  pb::GenerateRequest again = request;
  again.set_have(kHave);
  const auto reader = stub_->GenerateStream(&context, again);
  pb::GenerateResponse message;
  std::vector<int32_t> tokens(want.begin(), want.begin() + kHave);
  while (reader->Read(&message)) {
    if (!message.has_token()) continue;
    tokens.push_back(message.token().id());
    EXPECT_EQ(message.token().number(), tokens.size());
  }
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(tokens, want);
  EXPECT_EQ(log.Messages("answer_behind").size(), 1u);
}

TEST_F(InferenceCallsTest, ATokenTellsWhatAMemorySaid) {
  pb::GenerateRequest request = Request("the sea", 40);
  request.mutable_sampler()->set_temperature(2);
  request.set_perspectives("far,use=majority,every=1,tau=0");
  const std::vector<int32_t> without = MustGenerate(request);
  request.set_memory("s");
  EXPECT_THAT(Generate(request).status.error_message(), HasSubstr("nothing is remembered in it"));
  auto& memory = dynamic_cast<Memory&>(*node_->memories());
  ASSERT_TRUE(memory.Add("s", {{"something that nobody asks about", "x"}}).ok());
  const Whole whole = Generate(request);
  EXPECT_EQ(whole.tokens, without);
  EXPECT_EQ(whole.answer.begun().memory_version(), memory.Hold("", {"s", ""})->version);
  int asked = 0;
  for (const pb::Token& token : whole.answer.tokens()) {
    EXPECT_EQ(token.has_recall(), token.confidence().uncertain());
    EXPECT_FALSE(token.recall().found());
    asked += token.has_recall();
  }
  EXPECT_GT(asked, 0);
  request.set_memory_version("1-00");
  EXPECT_EQ(Generate(request).status.error_code(), StatusCode::FAILED_PRECONDITION);
  request.clear_memory();
  EXPECT_THAT(Generate(request).status.error_message(), HasSubstr("memory_version is given without memory"));
  request.clear_memory_version();
  request.set_memory("s");
  request.set_perspectives("far,use=average");
  EXPECT_EQ(Generate(request).status.error_code(), StatusCode::INVALID_ARGUMENT);
}

// An answer that was begun with a memory is taken up with it as it was then, whatever was added meanwhile;
// once it is forgotten, not at all.
TEST_F(InferenceCallsTest, AnAnswerIsTakenUpWithTheMemoryThatItBeganWith) {
  auto& memory = dynamic_cast<Memory&>(*node_->memories());
  ASSERT_TRUE(memory.Add("s", {{"something that nobody asks about", "x"}}).ok());
  pb::GenerateRequest request = Request("the sea", 30);
  request.set_request_id("remembers");
  request.mutable_sampler()->set_temperature(2);
  request.set_perspectives("far,use=majority,every=1,tau=0");
  request.set_memory("s");
  const std::vector<int32_t> want = MustGenerate(request);
  const std::string version = memory.Hold("", {"s", ""})->version;
  ASSERT_TRUE(memory.Add("s", {{"another", "y"}}).ok());
  Restart();
  const Whole again = Generate(request);
  ASSERT_TRUE(again.status.ok()) << again.status.error_message();
  EXPECT_EQ(again.tokens, want);
  EXPECT_EQ(again.answer.begun().memory_version(), version);
  request.set_request_id("begun");
  request.set_max_tokens(kEndless);
  BreakOff(request);
  ASSERT_TRUE(memory.Forget("s", std::nullopt).ok());
  Restart();
  grpc::ClientContext context;
  const auto stream = stub_->GenerateStream(&context, request);
  pb::GenerateResponse message;
  while (stream->Read(&message)) {
  }
  const grpc::Status refused = stream->Finish();
  EXPECT_EQ(refused.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(refused.error_message(), HasSubstr("goes on with the memory of version"));
}

// Whoever takes an answer up goes on with the polytope and the adapter that it began with, or not at all.
TEST_F(InferenceCallsTest, AnAnswerIsNotTakenUpWithAnotherPolytopeOrAdapter) {
  SaveAdapter("mine", 1);
  const std::string file = temp_ / "m/polytopes.omni";
  const std::string before = PolytopeBytes({RandomPolytope("tight", config_.d, 30, 0.3f, 1)});
  WriteFileBytes(file, before);
  pb::GenerateRequest request = Request("the sea", 3000);
  request.set_safety("tight");
  request.set_adapter("mine");
  const std::vector<int32_t> want = MustGenerate(request);
  request.set_request_id("one");
  BreakOff(request);
  EXPECT_TRUE(WaitForNoSessions());
  const auto take_up = [&] {
    grpc::ClientContext context;
    pb::GenerateRequest again = request;
    again.set_have(3);
    const auto reader = stub_->GenerateStream(&context, again);
    pb::GenerateResponse message;
    std::vector<int32_t> tokens(want.begin(), want.begin() + 3);
    while (reader->Read(&message)) {
      if (message.has_token()) tokens.push_back(message.token().id());
    }
    return std::pair(reader->Finish(), tokens);
  };
  const std::string hash = backend_->PolytopeHash({"tight", ""}).value();
  WriteFileBytes(file, PolytopeBytes({RandomPolytope("tight", config_.d, 30, 0.2f, 2)}));
  AwaitPolytope("tight", hash);
  const auto refused = take_up().first;
  EXPECT_EQ(refused.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(refused.error_message(), HasSubstr("goes on with the polytope 'tight' of hash " + hash));
  const std::string other = backend_->PolytopeHash({"tight", ""}).value();
  WriteFileBytes(file, before);
  AwaitPolytope("tight", other);
  SaveAdapter("mine", 2);
  const auto refused_too = take_up().first;
  EXPECT_EQ(refused_too.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(refused_too.error_message(), HasSubstr("goes on with the adapter 'mine' of hash "));
  SaveAdapter("mine", 1);
  const auto [status, tokens] = take_up();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(tokens, want);
}

TEST_F(InferenceCallsTest, AnAnswerIsAdaptedAndTellsByWhat) {
  pb::GenerateRequest request = Request("the sea", 60);
  const Whole plain = Generate(request);
  EXPECT_TRUE(plain.answer.begun().adapter_hash().empty());
  request.set_adapter("mine");
  EXPECT_THAT(Generate(request).status.error_message(), HasSubstr("there is no adapter 'mine'"));
  SaveAdapter("mine", 1);
  const Whole whole = Generate(request);
  ASSERT_TRUE(whole.status.ok()) << whole.status.error_message();
  EXPECT_NE(whole.tokens, plain.tokens);
  const std::string hash = whole.answer.begun().adapter_hash();
  EXPECT_EQ(hash.size(), 32u);
  SaveAdapter("mine", 2);
  grpc::ClientContext context;
  pb::ListAdaptersResponse list;
  const grpc::Status listed = stub_->ListAdapters(&context, {}, &list);
  ASSERT_TRUE(listed.ok()) << listed.error_message();
  ASSERT_EQ(list.adapters_size(), 1);
  EXPECT_EQ(list.adapters(0).name(), "mine");
  EXPECT_EQ(list.adapters(0).model_hash(), node_->model().hash());
  EXPECT_EQ(list.adapters(0).tokens(), 1000u);
  EXPECT_NE(list.adapters(0).hash(), hash);
  EXPECT_NE(MustGenerate(request), whole.tokens);
  request.set_adapter_hash(hash);
  const Whole refused = Generate(request);
  EXPECT_EQ(refused.status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("goes on with the adapter 'mine' of hash " + hash));
  SaveAdapter("mine", 1);
  EXPECT_EQ(MustGenerate(request), whole.tokens);
  request.clear_adapter();
  EXPECT_EQ(Generate(request).status.error_code(), StatusCode::INVALID_ARGUMENT);
}

// A saved session is its tokens: its state is gone on from by nobody who is adapted otherwise.
TEST_F(InferenceCallsTest, ASavedSessionIsGoneOnWithByTheAdapterThatIsAskedFor) {
  SaveAdapter("adapter1", 1);
  SaveAdapter("adapter2", 2);
  pb::GenerateRequest begin = Request("the sea", 20);
  begin.set_adapter("adapter1");
  begin.set_save_as("kept");
  std::vector<int32_t> tokens = PromptIds("the sea");
  for (int32_t token : MustGenerate(begin)) tokens.push_back(token);
  for (const char* adapter : {"", "adapter1", "adapter2"}) {
    pb::GenerateRequest next = Request("", 30, 3);
    next.set_adapter(adapter);
    pb::GenerateRequest whole = next;
    next.set_session("kept");
    next.set_prompt(" and");
    for (int32_t token : tokens) whole.add_tokens(token);
    for (TokenId token : backend_->tokenizer().Encode(" and")) whole.add_tokens(token.value);
    EXPECT_EQ(MustGenerate(next), MustGenerate(whole)) << adapter;
  }
}

TEST_F(InferenceCallsTest, WhatAClientNoLongerWaitsForIsNotComputed) {
  {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
    pb::Generation answer;
    const grpc::Status late = stub_->Generate(&context, Request("the sea", kEndless), &answer);
    EXPECT_EQ(late.error_code(), StatusCode::DEADLINE_EXCEEDED);
  }
  EXPECT_TRUE(WaitForNoSessions());
  {
    grpc::ClientContext context;
    const auto reader = stub_->GenerateStream(&context, Request("the sea", kEndless));
    pb::GenerateResponse message;
    ASSERT_TRUE(reader->Read(&message));
    context.TryCancel();
    while (reader->Read(&message)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
  }
  EXPECT_TRUE(WaitForNoSessions());
  EXPECT_TRUE(service_->WaitForNone(std::chrono::minutes(1)));
}

TEST_F(InferenceCallsTest, AWholeAnswerHasALimitAndAStreamHasNone) {
  pb::GenerateRequest request = Request("the sea", kEndless);
  request.set_alternatives(20);
  ExpectError(Generate(request).status, StatusCode::RESOURCE_EXHAUSTED, "ANSWER_TOO_LARGE");
  EXPECT_TRUE(WaitForNoSessions());
}

TEST_F(InferenceCallsTest, ErrorsSayWhyAndWhenToAskAgain) {
  backend_->submitting = absl::ResourceExhaustedError("all places are taken");
  const grpc::Status busy = Generate(Request("x", 3)).status;
  ExpectError(busy, StatusCode::RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED");
  EXPECT_EQ(DetailsOf(busy).retry, std::chrono::seconds(1));
  backend_->submitting = absl::OkStatus();
  backend_->serving = absl::UnavailableError("another leads");
  backend_->elsewhere = "10.0.0.1:7300";
  for (const grpc::Status& elsewhere : {Generate(Request("x", 3)).status, (GetSession("x"), last_)}) {
    ExpectError(elsewhere, StatusCode::UNAVAILABLE, "NOT_LEADING");
    EXPECT_EQ(DetailsOf(elsewhere).metadata["coordinator"], "10.0.0.1:7300");
    EXPECT_TRUE(DetailsOf(elsewhere).retry.has_value());
  }
  backend_->serving = absl::OkStatus();

  const auto refused = [&](const std::function<void(pb::GenerateRequest&)>& change, const char* part) {
    pb::GenerateRequest request = Request("x", 3);
    change(request);
    const grpc::Status status = Generate(request).status;
    ExpectError(status, StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT");
    EXPECT_THAT(status.error_message(), HasSubstr(part));
    EXPECT_FALSE(DetailsOf(status).retry.has_value());
  };
  refused([](auto& r) { r.set_alternatives(21); }, "alternatives is 21");
  refused([](auto& r) { r.set_perspectives("sideways"); }, "near or far");
  refused([](auto& r) { r.set_safety_hash("0123"); }, "without safety");
  refused([](auto& r) { r.add_tokens(5); }, "prompt and tokens");
  refused([](auto& r) { r.clear_prompt(), r.add_tokens(-1); }, "prompt token -1");
  refused([](auto& r) { r.set_request_id("a/b"); }, "request_id may have");
  refused([](auto& r) { r.set_save_as("a.b"); }, "save_as may have");
  refused([](auto& r) { r.set_session(std::string(65, 'a')); }, "session may have");
  refused([](auto& r) { r.set_have(1); }, "only a request with an id");
  refused([](auto& r) { r.set_request_id("a"), r.set_have(1); }, "a whole answer");
  refused([](auto& r) { r.mutable_sampler()->set_temperature(-1); }, "temperature");
  refused([](auto& r) { r.add_stops(std::string(5000, 'a')); }, "stops may be");
  refused([](auto& r) { r.set_prompt(std::string((8 << 20) + 1, 'a')); }, "the prompt is longer");
  pb::GenerateRequest other = Request("x", 3);
  other.set_model("large");
  ExpectError(Generate(other).status, StatusCode::NOT_FOUND, "MODEL_NOT_FOUND");
}

TEST_F(InferenceCallsTest, TextsBecomeTokensAndBack) {
  const std::string text = "the sea \xff was calm";
  pb::TokenizeRequest tokenize;
  tokenize.set_text(text);
  pb::TokenizeResponse tokens;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->Tokenize(&context, tokenize, &tokens).ok());
  }
  EXPECT_EQ(std::vector<int32_t>(tokens.tokens().begin(), tokens.tokens().end()),
            Ids(backend_->tokenizer().Encode(text)));
  std::string joined;
  for (const std::string& part : tokens.texts()) joined += part;
  EXPECT_EQ(joined, text);
  pb::DetokenizeRequest detokenize;
  *detokenize.mutable_tokens() = tokens.tokens();
  pb::DetokenizeResponse back;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->Detokenize(&context, detokenize, &back).ok());
  }
  EXPECT_EQ(back.text(), text);
  grpc::ClientContext context;
  detokenize.add_tokens(1 << 30);
  ExpectError(stub_->Detokenize(&context, detokenize, &back), StatusCode::INVALID_ARGUMENT,
              "INVALID_ARGUMENT");
}

TEST_F(InferenceCallsTest, TheModelIsDescribed) {
  pb::ListModelsResponse models;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->ListModels(&context, {}, &models).ok());
  }
  ASSERT_EQ(models.models_size(), 1);
  const pb::Model& model = models.models(0);
  EXPECT_EQ(model.name(), "small");
  EXPECT_EQ(model.hash(), node_->model().hash());
  EXPECT_EQ(model.layers(), config_.layers);
  EXPECT_EQ(model.vocabulary(), config_.vocab);
  EXPECT_EQ(model.regions(), config_.num_regions());
  pb::GetModelRequest request;
  request.set_name("small");
  pb::Model one;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->GetModel(&context, request, &one).ok());
  }
  EXPECT_EQ(one.SerializeAsString(), model.SerializeAsString());
  request.set_name("large");
  grpc::ClientContext context;
  ExpectError(stub_->GetModel(&context, request, &one), StatusCode::NOT_FOUND, "MODEL_NOT_FOUND");
}

}  // namespace
}  // namespace omni::testing
