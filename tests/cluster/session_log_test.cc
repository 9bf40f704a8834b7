#include "cluster/session_log.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cluster/session_log_fixture.h"

namespace omni {
namespace {

using testing::Calls;
using ::testing::ElementsAre;
using testing::FakeStore;
using ::testing::IsEmpty;
using testing::LogUnderTest;
using testing::Over;
using testing::StoreLog;
using testing::Tokens;

class SessionLogTest : public ::testing::TestWithParam<Over> {
 protected:
  std::unique_ptr<LogUnderTest> test_ = testing::MakeLogUnderTest(GetParam());
  Calls calls_{*test_};
};

INSTANTIATE_TEST_SUITE_P(Logs, SessionLogTest, ::testing::Values(Over::kDatabase, Over::kStore),
                         [](const auto& info) { return testing::NameOf(info.param); });

TEST_P(SessionLogTest, ASessionIsBegunOnce) {
  EXPECT_EQ(calls_.Find("s").status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(calls_.Begin("s", "request").ok());
  EXPECT_EQ(calls_.Begin("s", "other").code(), absl::StatusCode::kAlreadyExists);
  const LoggedSession session = calls_.MustFind("s");
  EXPECT_EQ(session.request, "request");
  EXPECT_THAT(session.tokens, IsEmpty());
  EXPECT_EQ(session.finished, "");
}

TEST_P(SessionLogTest, TokensAreFoundInTheirOrderAndSoIsTheEnd) {
  ASSERT_TRUE(calls_.Begin("s", std::string("a\0b", 3)).ok());
  std::vector<TokenId> all;
  // More than nine, so that the order of keys is not that of their digits.
  for (int32_t i = 0; i < 25; ++i) {
    const std::vector<TokenId> tokens = Tokens(1000 * i, 1 + i % 3);
    EXPECT_TRUE(calls_.Append({{"s", static_cast<int64_t>(all.size()), tokens, ""}}).ok());
    all.insert(all.end(), tokens.begin(), tokens.end());
    EXPECT_EQ(calls_.MustFind("s").tokens, all);
  }
  EXPECT_EQ(calls_.MustFind("s").finished, "");
  EXPECT_TRUE(calls_.Append({{"s", static_cast<int64_t>(all.size()), {TokenId(0)}, "length"}}).ok());
  test_->Reopen();
  const LoggedSession session = calls_.MustFind("s");
  all.push_back(TokenId(0));
  EXPECT_EQ(session.tokens, all);
  EXPECT_EQ(session.finished, "length");
  EXPECT_EQ(session.request, std::string("a\0b", 3));
}

TEST_P(SessionLogTest, AnEndMayComeWithoutTokens) {
  ASSERT_TRUE(calls_.Begin("s", "r").ok());
  EXPECT_TRUE(calls_.Append({{"s", 0, {}, "cancelled"}}).ok());
  EXPECT_EQ(calls_.MustFind("s").finished, "cancelled");
  EXPECT_THAT(calls_.MustFind("s").tokens, IsEmpty());
}

TEST_P(SessionLogTest, TheSameTokensAgainChangeNothing) {
  ASSERT_TRUE(calls_.Begin("s", "r").ok());
  EXPECT_TRUE(calls_.Append({{"s", 0, Tokens(5, 2), ""}}).ok());
  // In the coordination store they may be a write that was given up and comes late: refused.
  EXPECT_EQ(calls_.Append({{"s", 0, Tokens(5, 2), ""}}).ok(), GetParam() == Over::kDatabase);
  EXPECT_EQ(calls_.MustFind("s").tokens, Tokens(5, 2));
}

TEST_P(SessionLogTest, SeveralSessionsAreAddedToAtOnceAndKeptApart) {
  // One's name begins as another's.
  for (const char* id : {"s", "s2", "t"}) ASSERT_TRUE(calls_.Begin(id, id).ok());
  EXPECT_TRUE(calls_.Append({{"s", 0, Tokens(1, 1), ""}, {"s2", 0, Tokens(2, 2), "stop"}}).ok());
  EXPECT_TRUE(calls_.Append({{"s", 1, Tokens(9, 1), ""}, {"t", 0, Tokens(3, 3), ""}}).ok());
  EXPECT_THAT(calls_.MustFind("s").tokens, ElementsAre(TokenId(1), TokenId(9)));
  EXPECT_EQ(calls_.MustFind("s").finished, "");
  EXPECT_EQ(calls_.MustFind("s2").tokens, Tokens(2, 2));
  EXPECT_EQ(calls_.MustFind("s2").finished, "stop");
  EXPECT_EQ(calls_.MustFind("t").tokens, Tokens(3, 3));
}

TEST_P(SessionLogTest, AGapOrDamagedTokensAreDataLoss) {
  const std::string first = "session/s/tokens/000000000000", second = "session/s/tokens/000000000002";
  const auto begin = [&] {
    ASSERT_TRUE(calls_.Begin("s", "r").ok());
    ASSERT_TRUE(calls_.Append({{"s", 0, Tokens(5, 2), ""}}).ok());
    ASSERT_TRUE(calls_.Append({{"s", 2, Tokens(7, 2), ""}}).ok());
    EXPECT_EQ(calls_.MustFind("s").tokens, Tokens(5, 4));
  };
  const auto expect_loss = [&](const std::string& key) {
    const absl::Status found = calls_.Find("s").status();
    EXPECT_EQ(found.code(), absl::StatusCode::kDataLoss) << found;
    EXPECT_THAT(std::string(found.message()), ::testing::HasSubstr(key));
    EXPECT_TRUE(calls_.Forget("s").ok()) << "it can be forgotten nevertheless";
  };
  begin();
  test_->Remove(first);
  expect_loss(second);
  begin();
  test_->Put(first, std::string(7, 'x'));
  expect_loss(first);
  begin();
  test_->Put(second, "");
  expect_loss(second);
  // One too many, and one too few.
  begin();
  test_->Put("session/s/tokens/000000000003", std::string(4, 'x'));
  expect_loss("000000000003");
  begin();
  test_->Put(first, std::string(4, 'x'));
  expect_loss(second);
}

TEST_P(SessionLogTest, WhatIsForgottenLeavesNothingBehind) {
  for (const char* id : {"s", "s2"}) ASSERT_TRUE(calls_.Begin(id, id).ok());
  // More records than go in one transaction.
  for (int64_t i = 0; i < 250; ++i)
    ASSERT_TRUE(calls_.Append({{"s", i, Tokens(static_cast<int32_t>(i), 1), ""}}).ok());
  ASSERT_TRUE(calls_.Append({{"s", 250, {}, "stop"}}).ok());
  EXPECT_EQ(calls_.MustFind("s").tokens.size(), 250u);
  EXPECT_TRUE(calls_.Forget("s").ok());
  EXPECT_EQ(calls_.Find("s").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(test_->Keys(), ElementsAre("kept/sessions/s2", "session/s2/request"));
  EXPECT_TRUE(calls_.Forget("s").ok()) << "there is nothing to do";
  EXPECT_TRUE(calls_.Begin("s", "again").ok());
  EXPECT_THAT(calls_.MustFind("s").tokens, IsEmpty());
}

TEST_P(SessionLogTest, KnowsSinceWhenItsSessionsAreIdle) {
  using std::chrono::milliseconds;
  EXPECT_EQ(calls_.Times(), "0:");
  for (const char* id : {"a", "b", "c"}) ASSERT_TRUE(calls_.Begin(id, "r").ok());
  EXPECT_EQ(calls_.Times(), "0: a - b - c -") << "what is begun is in use";
  EXPECT_TRUE(calls_.SetTimes({milliseconds(70), {{"a", milliseconds(70)}, {"c", milliseconds(60)}}}).ok());
  EXPECT_TRUE(calls_.Append({{"a", 0, Tokens(1, 1), "stop"}}).ok());
  test_->Reopen();
  EXPECT_EQ(calls_.Times(), "70: a 70 b - c 60");
  EXPECT_TRUE(calls_.SetTimes({milliseconds(80), {{"a", std::nullopt}}}).ok());
  EXPECT_TRUE(calls_.Touch("c").ok());
  EXPECT_EQ(calls_.Times(), "80: a - b - c -");
  EXPECT_TRUE(calls_.Forget("b").ok());
  EXPECT_EQ(calls_.Times(), "80: a - c -");
  EXPECT_EQ(calls_.MustFind("a").tokens, Tokens(1, 1)) << "they are no part of the sessions";
}

class StoreSessionLogTest : public ::testing::Test {
 protected:
  StoreLog test_;
  Calls calls_{test_};
};

TEST_F(StoreSessionLogTest, WhatADeposedCoordinatorWritesIsRefused) {
  ASSERT_TRUE(calls_.Begin("s", "r").ok());
  ASSERT_TRUE(calls_.Append({{"s", 0, Tokens(1, 1), ""}}).ok());
  const uint64_t term = test_.term;
  test_.Elect();
  const uint64_t later = std::exchange(test_.term, term);
  EXPECT_EQ(calls_.Append({{"s", 1, Tokens(2, 1), ""}}).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(calls_.Begin("t", "r").code(), absl::StatusCode::kAborted);
  EXPECT_EQ(calls_.Forget("s").code(), absl::StatusCode::kAborted);
  EXPECT_EQ(calls_.Touch("s").code(), absl::StatusCode::kAborted);
  EXPECT_EQ(calls_.SetTimes({}).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(calls_.MustFind("s").tokens, Tokens(1, 1));
  EXPECT_EQ(calls_.Find("t").status().code(), absl::StatusCode::kNotFound);
  // Whoever leads now goes on from there.
  test_.term = later;
  EXPECT_TRUE(calls_.Append({{"s", 1, Tokens(5, 1), "stop"}}).ok());
  EXPECT_THAT(calls_.MustFind("s").tokens, ElementsAre(TokenId(1), TokenId(5)));
}

TEST_F(StoreSessionLogTest, AStoreThatCannotBeReachedIsSaidToBe) {
  test_.store.fate = [] { return FakeStore::Fate::kNeverArrives; };
  EXPECT_EQ(calls_.Begin("s", "r").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(calls_.Append({{"s", 0, Tokens(1, 1), ""}}).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(calls_.Find("s").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(calls_.Forget("s").code(), absl::StatusCode::kUnavailable);
}

// The end goes first, then the last records: what a crash leaves of it is a session that goes on, and no
// answer that seems whole and is not.
TEST_F(StoreSessionLogTest, WhatIsHalfForgottenIsStillASession) {
  ASSERT_TRUE(calls_.Begin("s", "r").ok());
  for (int64_t i = 0; i < 250; ++i)
    ASSERT_TRUE(calls_.Append({{"s", i, Tokens(static_cast<int32_t>(i), 1), i == 249 ? "length" : ""}}).ok());
  int calls = 0;
  test_.store.fate = [&] { return ++calls > 2 ? FakeStore::Fate::kNeverArrives : FakeStore::Fate::kDone; };
  EXPECT_EQ(calls_.Forget("s").code(), absl::StatusCode::kUnavailable);
  test_.store.fate = nullptr;
  EXPECT_EQ(calls_.MustFind("s").tokens, Tokens(0, 151));
  EXPECT_EQ(calls_.MustFind("s").finished, "");
  EXPECT_EQ(calls_.Times(), "0: s -") << "it is found when the next coordinator looks";
  EXPECT_TRUE(calls_.Forget("s").ok());
  EXPECT_THAT(test_.Keys(), IsEmpty());
}

}  // namespace
}  // namespace omni
