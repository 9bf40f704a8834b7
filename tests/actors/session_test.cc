#include "actors/session.h"

#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/random_model.h"

namespace omni {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A session on a tokenizer of plain bytes, fed with logits that leave no choice.
class SessionTest : public ::testing::Test {
 protected:
  SessionTest() : tokenizer_(*Tokenizer::Train("ab", config_.vocab)) {
    request_.prompt = {TokenId('x'), TokenId('y'), TokenId('z')};
    request_.max_tokens = 100;
    request_.sampler.temperature = 0;
  }

  std::unique_ptr<Session> Start(size_t capacity = 100, int64_t max_context = 1000) {
    channel_ = std::make_shared<SessionChannel>(capacity);
    auto session = std::make_unique<Session>(SessionId(7), request_, tokenizer_, max_context, channel_);
    EXPECT_TRUE(session->Activate(config_, Session::Clock::now()).ok());
    session->OnComputed(static_cast<int64_t>(session->pending().size()));
    return session;
  }

  // The session draws this token, and it is computed.
  void Draw(Session& session, int32_t token) {
    std::vector<float> logits(static_cast<size_t>(config_.vocab), 0.0f);
    logits[static_cast<size_t>(token)] = 10;
    session.OnToken(Sample(logits, session.tokens(), session.tokens().size(), session.sampler()),
                    Session::Clock::now());
    if (!session.over()) session.OnComputed(1);
  }

  GenerateResult Result() {
    auto taken = channel_->Take(std::stop_token());
    EXPECT_TRUE(taken.result.has_value() && taken.result->ok());
    return taken.result.has_value() && taken.result->ok() ? **taken.result : GenerateResult();
  }

  ModelConfig config_ = omni::testing::TinyConfig();
  Tokenizer tokenizer_;
  GenerateRequest request_;
  std::shared_ptr<SessionChannel> channel_;
};

TEST_F(SessionTest, EndsAtMaxTokens) {
  request_.max_tokens = 2;
  auto session = Start();
  EXPECT_TRUE(session->decoding());
  Draw(*session, 'a');
  EXPECT_FALSE(session->over());
  Draw(*session, 'b');
  EXPECT_TRUE(session->over());
  const GenerateResult result = Result();
  EXPECT_EQ(result.text, "ab");
  EXPECT_EQ(result.reason, StopReason::kLength);
  EXPECT_EQ(result.timings.prompt_tokens, 3);
  EXPECT_EQ(result.timings.generated_tokens, 2);
}

TEST_F(SessionTest, EndsAtEndOfText) {
  auto session = Start();
  Draw(*session, 'a');
  Draw(*session, Tokenizer::kEndOfText.value);
  const GenerateResult result = Result();
  EXPECT_EQ(result.text, "a");
  EXPECT_EQ(result.reason, StopReason::kEndOfText);
}

TEST_F(SessionTest, PassesEndOfTextWhenTold) {
  request_.stop_at_end_of_text = false;
  request_.max_tokens = 3;
  auto session = Start();
  for (int32_t token : {static_cast<int32_t>('a'), Tokenizer::kEndOfText.value, static_cast<int32_t>('b')}) {
    Draw(*session, token);
  }
  EXPECT_EQ(Result().text, "ab");
}

TEST_F(SessionTest, EndsBeforeAStopString) {
  request_.stops = {"END"};
  auto session = Start();
  for (char c : std::string("aENE")) Draw(*session, c);
  EXPECT_FALSE(session->over());
  for (char c : std::string("ND")) Draw(*session, c);
  EXPECT_TRUE(session->over());
  const GenerateResult result = Result();
  EXPECT_EQ(result.text, "aEN");
  EXPECT_EQ(result.reason, StopReason::kStop);
}

TEST_F(SessionTest, ShowsWhatWasHeldBackWhenItEnds) {
  request_.stops = {"END"};
  request_.max_tokens = 3;
  auto session = Start();
  for (char c : std::string("aEN")) Draw(*session, c);
  auto taken = channel_->Take(std::stop_token());
  std::string streamed;
  for (const GenerateEvent& event : taken.events) streamed += event.text;
  EXPECT_EQ(streamed, "aEN");
  EXPECT_EQ((*taken.result)->text, "aEN");
}

TEST_F(SessionTest, PausesForASlowClientAndGoesOn) {
  auto session = Start(2);
  Draw(*session, 'a');
  EXPECT_TRUE(session->runnable());
  Draw(*session, 'b');
  EXPECT_FALSE(session->runnable());
  EXPECT_FALSE(session->over());
  auto taken = channel_->Take(std::stop_token());
  EXPECT_EQ(taken.events.size(), 2u);
  EXPECT_TRUE(taken.resume);
  session->Resume();
  EXPECT_TRUE(session->runnable());
}

TEST_F(SessionTest, KeepsWhatItHasWhenCancelled) {
  auto session = Start();
  Draw(*session, 'a');
  session->Cancel();
  session->Fail(absl::InternalError("too late"));
  const GenerateResult result = Result();
  EXPECT_EQ(result.reason, StopReason::kCancelled);
  EXPECT_EQ(result.text, "a");
}

TEST_F(SessionTest, PendingIsThePromptThenTheLastToken) {
  channel_ = std::make_shared<SessionChannel>(10);
  Session session(SessionId(1), request_, tokenizer_, 1000, channel_);
  EXPECT_EQ(session.pending().size(), 3u);
  session.OnComputed(2);
  EXPECT_FALSE(session.decoding());
  EXPECT_THAT(session.pending(), ElementsAre(TokenId('z')));
  session.OnComputed(1);
  std::vector<float> logits(static_cast<size_t>(config_.vocab), 0.0f);
  logits['q'] = 1;
  session.OnToken(Sample(logits, session.tokens(), session.tokens().size(), session.sampler()),
                  Session::Clock::now());
  EXPECT_TRUE(session.decoding());
  EXPECT_THAT(session.pending(), ElementsAre(TokenId('q')));
}

std::vector<TokenId> Bytes(const std::string& text) {
  std::vector<TokenId> tokens;
  for (char c : text) tokens.push_back(TokenId(static_cast<uint8_t>(c)));
  return tokens;
}

TEST_F(SessionTest, KnownTokensArePromptToTheModelAndAnswerToTheLimit) {
  request_.generated = Bytes("ab");
  request_.max_tokens = 4;
  channel_ = std::make_shared<SessionChannel>(100);
  Session session(SessionId(1), request_, tokenizer_, 1000, channel_);
  EXPECT_EQ(session.pending().size(), 5u);
  EXPECT_FALSE(session.decoding());
  ASSERT_TRUE(session.Activate(config_, Session::Clock::now()).ok());
  session.OnComputed(5);
  EXPECT_TRUE(session.decoding());
  EXPECT_EQ(session.tokens().size(), 5u);
  Draw(session, 'c');
  EXPECT_FALSE(session.over());
  Draw(session, 'd');
  EXPECT_TRUE(session.over());
  // None of them is told again.
  auto taken = channel_->Take(std::stop_token());
  std::string streamed;
  for (const GenerateEvent& event : taken.events) streamed += event.text;
  EXPECT_EQ(streamed, "cd");
  EXPECT_EQ((*taken.result)->text, "cd");
  EXPECT_EQ((*taken.result)->tokens, Bytes("cd"));
  EXPECT_EQ((*taken.result)->reason, StopReason::kLength);
}

TEST_F(SessionTest, AStopStringMayBeginInKnownTokens) {
  request_.stops = {"END"};
  request_.generated = Bytes("aEN");
  auto session = Start();
  Draw(*session, 'D');
  EXPECT_TRUE(session->over());
  const GenerateResult result = Result();
  EXPECT_EQ(result.reason, StopReason::kStop);
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(result.tokens, Bytes("D"));
}

TEST_F(SessionTest, WhatKnownTokensHeldBackIsShownWithThoseThatFollow) {
  request_.stops = {"END"};
  request_.generated = Bytes("aEN");
  auto session = Start();
  Draw(*session, 'X');
  session->Cancel();
  EXPECT_EQ(Result().text, "ENX");
  // So is the first half of a character.
  request_.stops = {};
  request_.generated = Bytes("a\xc3");
  session = Start();
  Draw(*session, 0xa4);
  session->Cancel();
  EXPECT_EQ(Result().text, "\xc3\xa4");
}

TEST_F(SessionTest, CheckLooksAtKnownTokensToo) {
  const auto message = [&] { return std::string(CheckRequest(request_, config_.vocab, 10).message()); };
  request_.generated = Bytes("ab");
  EXPECT_EQ(message(), "");
  request_.max_tokens = 2;
  EXPECT_THAT(message(), HasSubstr("has 2 tokens already, and max_tokens is 2"));
  request_.max_tokens = 100;
  request_.generated = Bytes("abcdefg");
  EXPECT_THAT(message(), HasSubstr("10 tokens, but the context limit is 10"));
  request_.generated = {TokenId(static_cast<int32_t>(config_.vocab))};
  EXPECT_THAT(message(), HasSubstr("outside the vocabulary"));
}

TEST_F(SessionTest, CheckNamesWhatIsWrong) {
  const auto message = [&](const GenerateRequest& request) {
    return std::string(CheckRequest(request, config_.vocab, 10).message());
  };
  EXPECT_EQ(message(request_), "");
  GenerateRequest bad = request_;
  bad.prompt.assign(10, TokenId(1));
  EXPECT_THAT(message(bad), HasSubstr("10 tokens, but the context limit is 10"));
  bad = request_;
  bad.prompt[0] = TokenId(-1);
  EXPECT_THAT(message(bad), HasSubstr("-1"));
  bad = request_;
  bad.max_tokens = 0;
  EXPECT_THAT(message(bad), HasSubstr("max_tokens is 0"));
  bad = request_;
  bad.stops = {""};
  EXPECT_THAT(message(bad), HasSubstr("stop string is empty"));
}

TEST(SessionChannel, KeepsOnlyTheLatestProgress) {
  SessionChannel channel(2);
  for (int64_t i = 1; i <= 5; ++i) {
    GenerateEvent event;
    event.position = i;
    EXPECT_TRUE(channel.Push(event));
  }
  auto taken = channel.Take(std::stop_token());
  ASSERT_EQ(taken.events.size(), 1u);
  EXPECT_EQ(taken.events[0].position, 5);
}

TEST(SessionChannel, TheFirstEndWins) {
  SessionChannel channel(2);
  channel.Close(absl::InternalError("first"));
  channel.Close(GenerateResult());
  auto taken = channel.Take(std::stop_token());
  EXPECT_EQ(taken.result->status().message(), "first");
}

TEST(SessionChannel, AStopRequestEndsTheWait) {
  SessionChannel channel(2);
  std::stop_source stop;
  stop.request_stop();
  auto taken = channel.Take(stop.get_token());
  EXPECT_TRUE(taken.events.empty());
  EXPECT_FALSE(taken.result.has_value());
}

}  // namespace
}  // namespace omni
