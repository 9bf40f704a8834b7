// Sessions that are saved, gone on with and forked over omni.inference.v1, and answers that are taken up:
// what was saved is there when the server is started again.
#include <chrono>
#include <string>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "cluster/access.h"
#include "tests/cluster/inference_fixture.h"

namespace omni::testing {
namespace {

using ::testing::ElementsAre;

using InferenceSessionsTest = InferenceFixture;

TEST_F(InferenceSessionsTest, ASavedSessionIsGoneOnWithToTheBit) {
  pb::GenerateRequest first = Request("the sea", 30);
  first.set_save_as("talk");
  const Whole begun = Generate(first);
  ASSERT_TRUE(begun.status.ok()) << begun.status.error_message();
  EXPECT_EQ(begun.answer.finished().session().id(), "talk");

  std::vector<int32_t> all = PromptIds("the sea");
  all.insert(all.end(), begun.tokens.begin(), begun.tokens.end());
  EXPECT_EQ(TokensOf(GetSession("talk")), all);
  const std::vector<int32_t> added = Ids(backend_->tokenizer().Encode(" and then"));
  all.insert(all.end(), added.begin(), added.end());
  pb::GenerateRequest second = Request(" and then", 30, 7);
  second.set_session("talk");
  const std::vector<int32_t> want = Alone(all, second);

  const Whole from_memory = Generate(second);
  EXPECT_EQ(from_memory.tokens, want);
  EXPECT_EQ(service_->counters().states_found.Get(), 1);
  EXPECT_LE(from_memory.answer.finished().prompt_tokens(), added.size() + 1)
      << "the rest was computed before";
  EXPECT_EQ(from_memory.answer.begun().prompt_tokens(), all.size());
  Restart();
  const Whole from_tokens = Generate(second);
  EXPECT_EQ(from_tokens.tokens, want);
  EXPECT_EQ(service_->counters().states_found.Get(), 0);
  EXPECT_EQ(from_tokens.answer.finished().prompt_tokens(), all.size());
  // Without a prompt it goes on where it stopped.
  pb::GenerateRequest on = Request("", 20, 3);
  on.set_session("talk");
  all.resize(all.size() - added.size());
  EXPECT_EQ(MustGenerate(on), Alone(all, on));
}

TEST_F(InferenceSessionsTest, GoneOnWithInPlaceASessionGrows) {
  pb::GenerateRequest turn = Request("the sea", 12);
  turn.set_save_as("talk");
  std::vector<int32_t> all = PromptIds("the sea");
  for (int i = 0; i < 4; ++i) {
    const std::vector<int32_t> said = MustGenerate(turn);
    all.insert(all.end(), said.begin(), said.end());
    EXPECT_EQ(TokensOf(GetSession("talk")), all) << "turn " << i;
    turn.set_session("talk");
    turn.set_prompt("");
    // Every answer but the first without a prompt, and each as the engine alone has it.
    EXPECT_EQ(MustGenerate([&] {
                pb::GenerateRequest look = turn;
                look.clear_save_as();
                return look;
              }()),
              Alone(all, turn));
  }
  EXPECT_GT(service_->counters().states_found.Get(), 0);
}

TEST_F(InferenceSessionsTest, ForksGoTheirOwnWays) {
  pb::GenerateRequest first = Request("the sea", 10);
  first.set_save_as("trunk");
  MustGenerate(first);
  ASSERT_TRUE(Fork("trunk", "branch")) << last_.error_message();
  pb::GenerateRequest on = Request(" left", 10);
  on.set_session("trunk");
  on.set_save_as("trunk");
  const std::vector<int32_t> trunk = TokensOf(GetSession("trunk"));
  MustGenerate(on);
  EXPECT_EQ(TokensOf(GetSession("branch")), trunk) << "a fork is as its trunk was";
  EXPECT_GT(TokensOf(GetSession("trunk")).size(), trunk.size());

  EXPECT_THAT(List(), ElementsAre("branch", "trunk"));
  EXPECT_THAT(List(1), ElementsAre("branch", "trunk")) << "page by page";
  EXPECT_FALSE(Fork("trunk", "branch"));
  ExpectError(last_, StatusCode::ALREADY_EXISTS, "SESSION_EXISTS");
  EXPECT_FALSE(Fork("nothing", "other"));
  ExpectError(last_, StatusCode::NOT_FOUND, "SESSION_NOT_FOUND");
  Restart();
  EXPECT_THAT(List(), ElementsAre("branch", "trunk")) << "started again";
  EXPECT_TRUE(Delete("trunk"));
  EXPECT_FALSE(Delete("trunk"));
  ExpectError(last_, StatusCode::NOT_FOUND, "SESSION_NOT_FOUND");
  EXPECT_THAT(List(), ElementsAre("branch"));
  pb::GenerateRequest of_none = Request("x", 3);
  of_none.set_session("trunk");
  ExpectError(Generate(of_none).status, StatusCode::NOT_FOUND, "SESSION_NOT_FOUND");
}

TEST_F(InferenceSessionsTest, NoSessionIsOverwrittenUnseen) {
  pb::GenerateRequest first = Request("the sea", 5);
  first.set_save_as("talk");
  MustGenerate(first);
  ExpectError(Generate(first).status, StatusCode::ALREADY_EXISTS, "SESSION_EXISTS");

  // One that goes on in place, and whose client does not read on while another does the same.
  pb::GenerateRequest slow = Request("", 20'000);
  slow.set_session("talk");
  slow.set_save_as("talk");
  grpc::ClientContext context;
  const auto reader = stub_->GenerateStream(&context, slow);
  pb::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  pb::GenerateRequest quick = Request(" quick", 5);
  quick.set_session("talk");
  quick.set_save_as("talk");
  MustGenerate(quick);
  const std::vector<int32_t> kept = TokensOf(GetSession("talk"));
  while (reader->Read(&message)) EXPECT_FALSE(message.has_finished());
  ExpectError(reader->Finish(), StatusCode::ABORTED, "SESSION_CHANGED");
  EXPECT_EQ(TokensOf(GetSession("talk")), kept);
}

TEST_F(InferenceSessionsTest, AnAnswerThatIsTakenUpIsSavedOnceWhateverBecameOfItsSession) {
  pb::GenerateRequest first = Request("the sea", 10);
  first.set_save_as("talk");
  MustGenerate(first);
  std::vector<int32_t> all = TokensOf(GetSession("talk"));
  pb::GenerateRequest on = Request("", 5000, 5);
  on.set_session("talk");
  on.set_save_as("talk");
  const std::vector<int32_t> want = Alone(all, on);
  on.set_request_id("answer");

  std::vector<int32_t> had;
  {
    grpc::ClientContext context;
    const auto reader = stub_->GenerateStream(&context, on);
    pb::GenerateResponse message;
    while (had.size() < 20 && reader->Read(&message)) {
      if (message.has_token()) had.push_back(message.token().id());
    }
    context.TryCancel();
  }
  for (int again = 0; again < 2; ++again) {  // the second time, what is saved is saved already
    Restart();
    grpc::ClientContext context;
    pb::GenerateRequest rest;
    rest.set_request_id("answer");
    rest.set_have(had.size());
    std::vector<int32_t> tokens = had;
    const auto reader = stub_->GenerateStream(&context, rest);
    pb::GenerateResponse message;
    uint64_t number = had.size();
    pb::Finished finished;
    while (reader->Read(&message)) {
      if (message.has_finished()) finished = message.finished();
      if (!message.has_token()) continue;
      EXPECT_EQ(message.token().number(), ++number);
      tokens.push_back(message.token().id());
    }
    const grpc::Status status = reader->Finish();
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(tokens, want);
    EXPECT_EQ(finished.session().tokens(), all.size() + want.size());
  }
  all.insert(all.end(), want.begin(), want.end());
  EXPECT_EQ(TokensOf(GetSession("talk")), all);
}

TEST_F(InferenceSessionsTest, ASessionOfAnotherModelIsNotGoneOnWith) {
  pb::GenerateRequest first = Request("the sea", 5);
  first.set_save_as("talk");
  MustGenerate(first);
  backend_->hash = "another";
  pb::GenerateRequest on = Request("x", 5);
  on.set_session("talk");
  ExpectError(Generate(on).status, StatusCode::FAILED_PRECONDITION, "SESSION_OF_ANOTHER_MODEL");
}

TEST_F(InferenceSessionsTest, ACallerSeesItsOwnRequestsAndSessionsAlone) {
  const auto now = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
  std::string keys[2];
  for (int i = 0; i < 2; ++i) {
    const auto key = CreateKey(temp_ / "keys", absl::StrCat("caller", i), Scope::kInfer, std::nullopt, now);
    ASSERT_TRUE(key.ok()) << key.status();
    keys[i] = key->key;
  }
  auto access = Access::Open(temp_ / "keys");
  ASSERT_TRUE(access.ok()) << access.status();
  options_.access = access->get();
  Restart();
  pb::GenerateRequest request = Request("the sea", 5);
  request.set_save_as("talk");
  request.set_request_id("answer");
  key_ = keys[0];
  const std::vector<int32_t> said = MustGenerate(request);
  EXPECT_THAT(List(), ElementsAre("talk"));
  key_ = keys[1];
  EXPECT_THAT(List(), ElementsAre());
  GetSession("talk");
  ExpectError(last_, StatusCode::NOT_FOUND, "SESSION_NOT_FOUND");
  EXPECT_FALSE(Delete("talk"));
  // The same names are others.
  request.set_prompt("a ship");
  EXPECT_EQ(MustGenerate(request), Alone(PromptIds("a ship"), request));
  key_ = keys[0];
  pb::GenerateRequest again;
  again.set_request_id("answer");
  EXPECT_EQ(MustGenerate(again), said);
  key_ = "";
  EXPECT_EQ(Generate(request).status.error_code(), StatusCode::UNAUTHENTICATED);
  Stop();  // before its keys go
}

}  // namespace
}  // namespace omni::testing
