// What one caller may have of an HTTP door.
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include <absl/strings/numbers.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cluster/caller_limits.h"
#include "tests/cluster/http/door_fixture.h"

namespace omni {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Get;
using ::testing::HasSubstr;
using testing::kChat;
using testing::kEndless;
using ::testing::Not;
using testing::Post;
using testing::RawAnswer;
using testing::RawClient;

class HttpLimitsTest : public testing::HttpDoorFixture {
 protected:
  void Limit(const CallerLimitOptions& options, const SwarmOptions& swarm = {}) {
    behind_.limits = std::make_shared<CallerLimits>(
        options, [this] { return CallerLimits::Clock::time_point(milliseconds(now_ms_)); });
    Open(swarm);
  }
  void MakeKeys() {
    const KeyTime now = std::chrono::floor<seconds>(std::chrono::system_clock::now());
    for (auto& [name, header] : keys_) {
      const auto made = CreateKey(temp_ / "keys.json", name, Scope::kInfer, std::nullopt, now);
      ASSERT_TRUE(made.ok()) << made.status();
      header = "Authorization: Bearer " + made->key + "\r\n";
    }
    auto access = Access::Open(temp_ / "keys.json");
    ASSERT_TRUE(access.ok()) << access.status();
    behind_.guard.access = *std::move(access);
  }
  // A 429 that says when to come back, in seconds.
  int64_t Refused(const RawAnswer& answer, const std::string& why) {
    const testing::json error = Error(answer, 429);
    EXPECT_EQ(error["code"], "rate_limit_exceeded");
    EXPECT_THAT(error["message"].get<std::string>(), HasSubstr(why));
    int64_t after = 0;
    const auto header = answer.headers.find("Retry-After");
    EXPECT_TRUE(header != answer.headers.end() && absl::SimpleAtoi(header->second, &after));
    return after;
  }

  std::atomic<int64_t> now_ms_ = 1'000'000;
  std::map<std::string, std::string> keys_ = {{"one", ""}, {"two", ""}, {"three", ""}, {"four", ""}};
};

TEST_F(HttpLimitsTest, ACallerHasSoManyUnderWayAndOthersTheirOwn) {
  MakeKeys();
  Limit({.requests = 1, .tokens_per_minute = 0, .time = milliseconds(0)});
  RawClient first(door_->address());
  first.Send(Post(kChat, ChatBody(1, true, kEndless), keys_["one"]));
  ASSERT_TRUE(first.ReadUntil("data: "));
  EXPECT_EQ(Refused(Ask(Post(kChat, ChatBody(2, false), keys_["one"])), "1 requests under way"), 1);
  EXPECT_EQ(Ask(Get("/v1/models", keys_["one"])).status, 200);
  EXPECT_EQ(Ask(Post(kChat, ChatBody(2, false), keys_["two"])).status, 200);
  first.Close();
  ASSERT_TRUE(WaitForSessions(0, 0));
  const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  int status = 429;
  while (status == 429 && std::chrono::steady_clock::now() < until)
    status = Ask(Post(kChat, ChatBody(2, false), keys_["one"])).status;
  EXPECT_EQ(status, 200);
}

TEST_F(HttpLimitsTest, TokensThatACallerOwesAreWaitedFor) {
  Limit({.requests = 0, .tokens_per_minute = 60, .time = milliseconds(0)});
  const RawAnswer answer = Ask(Post(kChat, ChatBody(1, false, 100)));
  ASSERT_EQ(answer.status, 200);
  const testing::json usage = testing::json::parse(answer.body)["usage"];
  // One a second: what is owed, and one more.
  const int64_t wait = usage["total_tokens"].get<int64_t>() - 60 + 1;
  ASSERT_GT(wait, 1);
  EXPECT_EQ(Refused(Ask(Post(kChat, ChatBody(1, false))), "60 tokens a minute"), wait);
  now_ms_ += 1000 * wait;
  EXPECT_EQ(Ask(Post(kChat, ChatBody(1, false))).status, 200);
}

TEST_F(HttpLimitsTest, WhatFindsNoPlaceCostsNothing) {
  MakeKeys();
  SwarmOptions swarm;
  swarm.coordinator.max_active = 1;
  swarm.coordinator.max_queued = 1;
  Limit({.requests = 0, .tokens_per_minute = 100, .time = milliseconds(0)}, swarm);
  RawClient first(door_->address()), second(door_->address()), third(door_->address());
  first.Send(Post(kChat, ChatBody(1, true, kEndless), keys_["one"]));
  ASSERT_TRUE(WaitForSessions(1, 0));
  second.Send(Post(kChat, ChatBody(2, true, kEndless), keys_["three"]));
  ASSERT_TRUE(WaitForSessions(1, 1));
  third.Send(Post(kChat, ChatBody(2, true, kEndless), keys_["four"]));  // in the queue's reserve
  ASSERT_TRUE(WaitForSessions(1, 2));
  for (int i = 0; i < 20; ++i) {  // together their prompts have far more tokens than there are
    const RawAnswer refused = Ask(Post(kChat, ChatBody(3, false), keys_["two"]));
    ASSERT_EQ(refused.status, 429);
    EXPECT_THAT(refused.body, Not(HasSubstr("tokens a minute")));
  }
  for (RawClient* client : {&first, &second, &third}) client->Close();
  ASSERT_TRUE(WaitForSessions(0, 0));
  EXPECT_EQ(Ask(Post(kChat, ChatBody(3, false), keys_["two"])).status, 200);
}

TEST_F(HttpLimitsTest, AnAnswerEndsWithItsTime) {
  Limit({.requests = 0, .tokens_per_minute = 0, .time = seconds(60)});
  RawClient stream(door_->address());
  stream.Send(Post(kChat, ChatBody(1, true, kEndless)));
  ASSERT_TRUE(stream.ReadUntil("data: "));
  now_ms_ += 60'000;
  const auto answer = stream.Read();
  ASSERT_TRUE(answer.has_value());
  EXPECT_THAT(answer->body, HasSubstr("has taken the 60 s"));
  EXPECT_THAT(answer->body, Not(HasSubstr("[DONE]")));
  EXPECT_TRUE(WaitForSessions(0, 0));
}

TEST_F(HttpLimitsTest, AnAnswerHasSoManyTokens) {
  most_tokens_ = 10;
  Limit({});
  const RawAnswer most = Ask(Post(kChat, ChatBody(1, false, 10)));
  EXPECT_EQ(most.status, 200);
  const testing::json error = Error(Ask(Post(kChat, ChatBody(1, false, 11))), 400);
  EXPECT_EQ(error["param"], "max_tokens");
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("from 1 to 10"));
  // Who does not say gets what there is.
  const RawAnswer unsaid =
      Ask(Post(kChat, R"({"messages": [{"role": "user", "content": "x"}], "ignore_eos": true})"));
  ASSERT_EQ(unsaid.status, 200);
  EXPECT_EQ(testing::json::parse(unsaid.body)["usage"]["completion_tokens"], 10);
}

}  // namespace
}  // namespace omni
