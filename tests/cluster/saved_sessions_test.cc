// Sessions that are saved by name, over a database and over a coordination store; and which states stay.
#include "cluster/saved_sessions.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cluster/session_states.h"
#include "tests/cluster/session_log_fixture.h"
#include "tests/testing/checkpoint_fixture.h"

namespace omni {
namespace {

using ::testing::ElementsAre;
using testing::Over;

class SavedSessionsTest : public ::testing::TestWithParam<Over> {
 protected:
  SavedSessionsTest() { Reopen(); }
  void Reopen() {
    saved_ = nullptr;
    if (GetParam() == Over::kStore) {
      if (term_ == 0) Elect();
      saved_ = MakeStoreSavedSessions(store_, [this] { return term_; });
      return;
    }
    database_ = nullptr;
    auto database = Database::Open(dir_ / "db", {});
    ASSERT_TRUE(database.ok()) << database.status();
    database_ = *std::move(database);
    saved_ = MakeDatabaseSavedSessions(*database_);
  }
  void Elect() {
    Transaction transaction;
    transaction.changes.push_back({kLeaderKey, "{}"});
    const auto committed = store_.state().Commit(transaction, {});
    ASSERT_TRUE(committed.ok() && committed->applied);
    term_ = static_cast<uint64_t>(committed->revision);
  }
  absl::StatusOr<uint64_t> Put(const std::string& id, const std::string& tokens, uint64_t expected = 0) {
    return Result<uint64_t>([&](auto done) {
      saved_->Put({id, 0, "about " + tokens, tokens}, expected, done);
    });
  }
  absl::StatusOr<SavedSession> Find(const std::string& id) {
    return Result<SavedSession>([&](auto done) { saved_->Find(id, done); });
  }
  std::string TokensOf(const std::string& id) {
    const auto found = Find(id);
    return found.ok() ? found->tokens : std::string(found.status().message());
  }
  absl::Status Delete(const std::string& id) {
    return Result<int>([&](auto done) {
             saved_->Delete(id, [done](const absl::Status& s) {
               done(s.ok() ? absl::StatusOr<int>(0) : absl::StatusOr<int>(s));
             });
           })
        .status();
  }
  std::vector<std::string> List(const std::string& prefix) {
    const auto found = Result<std::vector<SavedSession>>([&](auto done) { saved_->List(prefix, done); });
    std::vector<std::string> ids;
    EXPECT_TRUE(found.ok()) << found.status();
    for (const SavedSession& session : found.value_or(std::vector<SavedSession>())) {
      EXPECT_TRUE(session.tokens.empty());
      EXPECT_FALSE(session.about.empty());
      ids.push_back(session.id);
    }
    return ids;
  }
  template <typename T, typename Call>
  absl::StatusOr<T> Result(Call call) {
    std::optional<absl::StatusOr<T>> result;
    call([&](absl::StatusOr<T> told) {
      EXPECT_FALSE(result.has_value()) << "each is told once";
      result = std::move(told);
    });
    store_.Run();
    EXPECT_TRUE(result.has_value()) << "nothing was told";
    return result.value_or(absl::UnknownError("nothing was told"));
  }

  testing::TempDir dir_;
  testing::FakeStore store_;
  uint64_t term_ = 0;
  std::unique_ptr<Database> database_;
  std::unique_ptr<SavedSessions> saved_;
};

TEST_P(SavedSessionsTest, WhatIsSavedIsThereAfterARestart) {
  const auto first = Put("a", "1 2 3");
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(Put("ab", std::string("\0\xff", 2)).ok());
  Reopen();
  const auto found = Find("a");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->tokens, "1 2 3");
  EXPECT_EQ(found->about, "about 1 2 3");
  EXPECT_EQ(found->revision, *first);
  EXPECT_NE(*first, 0u);
  EXPECT_EQ(TokensOf("ab"), std::string("\0\xff", 2));
  EXPECT_TRUE(absl::IsNotFound(Find("b").status()));
}

TEST_P(SavedSessionsTest, OnlyWhoHasSeenTheLastRevisionChangesIt) {
  const uint64_t first = Put("a", "1").value_or(0);
  EXPECT_TRUE(absl::IsAlreadyExists(Put("a", "2").status()));
  const uint64_t second = Put("a", "2", first).value_or(0);
  EXPECT_NE(second, first);
  EXPECT_TRUE(absl::IsAborted(Put("a", "3", first).status()));
  EXPECT_EQ(TokensOf("a"), "2");
  EXPECT_TRUE(Delete("a").ok());
  EXPECT_TRUE(absl::IsNotFound(Delete("a")));
  EXPECT_TRUE(absl::IsAborted(Put("a", "3", second).status())) << "it is gone";
  EXPECT_NE(Put("a", "4").value_or(second), second) << "another of the name is another";
  EXPECT_TRUE(absl::IsAborted(Put("a", "5", second).status()));
}

TEST_P(SavedSessionsTest, ListsWhatBeginsSo) {
  for (const char* id : {"b", "x.b", "a", "x.a", "xa"}) ASSERT_TRUE(Put(id, id).ok());
  EXPECT_THAT(List("x."), ElementsAre("x.a", "x.b"));
  EXPECT_THAT(List(""), ElementsAre("a", "b", "x.a", "x.b", "xa"));
}

INSTANTIATE_TEST_SUITE_P(, SavedSessionsTest, ::testing::Values(Over::kDatabase, Over::kStore),
                         [](const auto& info) { return testing::NameOf(info.param); });

using StoreSavedSessionsTest = SavedSessionsTest;
INSTANTIATE_TEST_SUITE_P(, StoreSavedSessionsTest, ::testing::Values(Over::kStore),
                         [](const auto& info) { return testing::NameOf(info.param); });

TEST_P(StoreSavedSessionsTest, WhoDoesNotLeadAnyMoreSavesNothing) {
  const uint64_t revision = Put("a", "1").value_or(0);
  const uint64_t before = term_;
  Elect();
  term_ = before;  // as the one before still thinks
  EXPECT_TRUE(absl::IsUnavailable(Put("b", "2").status()));
  EXPECT_TRUE(absl::IsUnavailable(Put("a", "2", revision).status()));
  EXPECT_TRUE(absl::IsUnavailable(Delete("a")));
  EXPECT_EQ(TokensOf("a"), "1");
}

// A store reads all that begins with a key, and refuses what is too much at once.
TEST_P(StoreSavedSessionsTest, OneIsReadWithoutThoseWhoseNamesBeginWithIts) {
  for (const char* id : {"a", "ab", "a-1", "x.a"}) ASSERT_TRUE(Put(id, id).ok());
  store_.reads.clear();
  EXPECT_EQ(TokensOf("a"), "a");
  EXPECT_EQ(store_.reads.size(), 2u) << "its tokens, and what there is to say of it";
  for (const std::string& prefix : store_.reads)
    EXPECT_EQ(store_.state().Read(prefix, {})->records.size(), 1u) << prefix;
}

SnapshotPtr State() {
  return std::make_shared<const SessionSnapshot>(
      SessionSnapshot{GenerateRequest(), {TokenId(1)}, 0, SessionState(testing::SmallConfig())});
}

TEST(SessionStatesTest, ThoseUsedLastStayWithinTheMemoryThatThereIs) {
  const int64_t one = State()->state.bytes() + static_cast<int64_t>(sizeof(TokenId));
  SessionStates states(2 * one);
  const SnapshotPtr a = State();
  states.Put("a", 1, a);
  states.Put("b", 1, State());
  EXPECT_EQ(states.Find("a", 1), a);
  EXPECT_EQ(states.Find("a", 2), nullptr) << "another revision";
  states.Put("c", 1, State());
  EXPECT_EQ(states.Find("b", 1), nullptr) << "it was used least";
  EXPECT_NE(states.Find("a", 1), nullptr);
  EXPECT_NE(states.Find("c", 1), nullptr);
  EXPECT_EQ(states.bytes(), 2 * one);
  states.Forget("a");
  EXPECT_EQ(states.Find("a", 1), nullptr);
  EXPECT_EQ(states.bytes(), one);
  states.Put("c", 2, State());
  EXPECT_EQ(states.bytes(), one) << "one takes the place of another";
  SessionStates none(one - 1);
  none.Put("a", 1, State());
  EXPECT_EQ(none.Find("a", 1), nullptr);
  EXPECT_EQ(none.bytes(), 0);
}

}  // namespace
}  // namespace omni
