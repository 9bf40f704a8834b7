#include "cluster/session_log.h"

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cluster/cluster_records.h"
#include "tests/testing/fake_store.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using ::testing::ElementsAre;
using testing::FakeStore;
using ::testing::IsEmpty;

std::vector<TokenId> Tokens(int32_t first, int32_t count) {
  std::vector<TokenId> tokens;
  for (int32_t i = 0; i < count; ++i) tokens.push_back(TokenId(first + i));
  return tokens;
}

// A log over something that a test may look into.
class LogUnderTest {
 public:
  virtual ~LogUnderTest() = default;
  virtual SessionLog& log() = 0;
  virtual void Run() {}       // lets callbacks come
  virtual void Reopen() = 0;  // as after a restart
  virtual void Remove(const std::string& key) = 0;
  virtual void Put(const std::string& key, const std::string& value) = 0;
  virtual std::vector<std::string> Keys() = 0;
};

class DatabaseLog : public LogUnderTest {
 public:
  DatabaseLog() { Reopen(); }
  SessionLog& log() override { return *log_; }
  void Reopen() override {
    log_ = nullptr;
    database_ = nullptr;
    auto database = Database::Open(temp_ / "db", {});
    EXPECT_TRUE(database.ok()) << database.status();
    database_ = *std::move(database);
    log_ = MakeDatabaseSessionLog(*database_);
  }
  void Remove(const std::string& key) override { EXPECT_TRUE(database_->Delete(key).ok()); }
  void Put(const std::string& key, const std::string& value) override {
    EXPECT_TRUE(database_->Put(key, value).ok());
  }
  std::vector<std::string> Keys() override {
    std::vector<std::string> keys;
    EXPECT_TRUE(database_
                    ->ForEach("",
                              [&](std::string_view key, std::string_view) {
                                keys.emplace_back(key);
                                return absl::OkStatus();
                              })
                    .ok());
    return keys;
  }

 private:
  testing::TempDir temp_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<SessionLog> log_;
};

class StoreLog : public LogUnderTest {
 public:
  StoreLog() {
    Elect();
    Reopen();
  }
  SessionLog& log() override { return *log_; }
  void Run() override { store.Run(); }
  void Reopen() override {
    log_ = MakeStoreSessionLog(store, [this] { return term; });
  }
  void Remove(const std::string& key) override { Write({key}); }
  void Put(const std::string& key, const std::string& value) override { Write({key, value}); }
  std::vector<std::string> Keys() override {
    std::vector<std::string> keys;
    for (const auto& [key, record] : store.state().contents().records) {
      if (key != kLeaderKey) keys.push_back(key);
    }
    return keys;
  }
  uint64_t Write(Change change) {
    Transaction transaction;
    transaction.changes.push_back(std::move(change));
    const auto committed = store.state().Commit(transaction, {});
    EXPECT_TRUE(committed.ok() && committed->applied);
    return static_cast<uint64_t>(committed->revision);
  }
  void Elect() { term = Write({kLeaderKey, "{}"}); }

  FakeStore store;
  uint64_t term = 0;

 private:
  std::unique_ptr<SessionLog> log_;
};

class Calls {
 public:
  explicit Calls(LogUnderTest& under_test) : test_(under_test) {}
  absl::Status Begin(const std::string& id, const std::string& request) {
    return Status([&](auto done) { test_.log().Begin(id, request, done); });
  }
  absl::Status Append(std::vector<LoggedTokens> tokens) {
    return Status([&](auto done) { test_.log().Append(std::move(tokens), done); });
  }
  absl::Status Forget(const std::string& id) {
    return Status([&](auto done) { test_.log().Forget(id, done); });
  }
  absl::StatusOr<LoggedSession> Find(const std::string& id) {
    std::optional<absl::StatusOr<LoggedSession>> found;
    test_.log().Find(id, [&](absl::StatusOr<LoggedSession> session) { found = std::move(session); });
    test_.Run();
    EXPECT_TRUE(found.has_value()) << "nothing was told";
    return found.value_or(absl::UnknownError("nothing was told"));
  }
  LoggedSession MustFind(const std::string& id) {
    const auto found = Find(id);
    EXPECT_TRUE(found.ok()) << found.status();
    return found.value_or(LoggedSession());
  }

 private:
  template <typename Call>
  absl::Status Status(Call call) {
    int told = 0;
    absl::Status result;
    call([&](absl::Status status) { result = std::move(status), ++told; });
    test_.Run();
    EXPECT_EQ(told, 1) << "each is told once";
    return result;
  }

  LogUnderTest& test_;
};

enum class Over { kDatabase, kStore };

class SessionLogTest : public ::testing::TestWithParam<Over> {
 protected:
  SessionLogTest()
      : test_(GetParam() == Over::kDatabase ? std::unique_ptr<LogUnderTest>(std::make_unique<DatabaseLog>())
                                            : std::make_unique<StoreLog>()),
        calls_(*test_) {}

  std::unique_ptr<LogUnderTest> test_;
  Calls calls_;
};

INSTANTIATE_TEST_SUITE_P(Logs, SessionLogTest, ::testing::Values(Over::kDatabase, Over::kStore),
                         [](const auto& info) {
                           return info.param == Over::kDatabase ? "Database" : "Store";
                         });

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
  EXPECT_THAT(test_->Keys(), ElementsAre("session/s2/request"));
  EXPECT_TRUE(calls_.Forget("s").ok()) << "there is nothing to do";
  EXPECT_TRUE(calls_.Begin("s", "again").ok());
  EXPECT_THAT(calls_.MustFind("s").tokens, IsEmpty());
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

// The last records go first: what a crash leaves of it is a session.
TEST_F(StoreSessionLogTest, WhatIsHalfForgottenIsStillASession) {
  ASSERT_TRUE(calls_.Begin("s", "r").ok());
  for (int64_t i = 0; i < 250; ++i)
    ASSERT_TRUE(calls_.Append({{"s", i, Tokens(static_cast<int32_t>(i), 1), ""}}).ok());
  int calls = 0;
  test_.store.fate = [&] { return ++calls > 2 ? FakeStore::Fate::kNeverArrives : FakeStore::Fate::kDone; };
  EXPECT_EQ(calls_.Forget("s").code(), absl::StatusCode::kUnavailable);
  test_.store.fate = nullptr;
  EXPECT_EQ(calls_.MustFind("s").tokens, Tokens(0, 150));
  EXPECT_TRUE(calls_.Forget("s").ok());
  EXPECT_THAT(test_.Keys(), IsEmpty());
}

}  // namespace
}  // namespace omni
