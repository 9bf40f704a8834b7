// Session logs over a database and over a coordination store, which a test may look into and open again.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include "cluster/cluster_records.h"
#include "cluster/session_log.h"
#include "tests/testing/fake_store.h"
#include "tests/testing/temp_dir.h"

namespace omni::testing {

inline std::vector<TokenId> Tokens(int32_t first, int32_t count) {
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
  TempDir temp_;
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
  absl::Status Touch(const std::string& id) {
    return Status([&](auto done) { test_.log().Touch(id, done); });
  }
  absl::Status SetTimes(const LoggedTimes& times) {
    return Status([&](auto done) { test_.log().SetTimes(times, done); });
  }
  // "NOW: ID IDLE_SINCE, ..." in milliseconds; - for one that is in use.
  std::string Times() {
    std::optional<absl::StatusOr<LoggedTimes>> told;
    test_.log().Times([&](absl::StatusOr<LoggedTimes> times) { told = std::move(times); });
    test_.Run();
    if (!told.has_value() || !told->ok()) return "no times";
    std::string text = absl::StrCat((*told)->now.count(), ":");
    for (const LoggedTimes::Session& s : (*told)->sessions) {
      absl::StrAppend(&text, " ", s.id, " ");
      if (s.idle_since.has_value()) {
        absl::StrAppend(&text, s.idle_since->count());
      } else {
        absl::StrAppend(&text, "-");
      }
    }
    return text;
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

inline std::unique_ptr<LogUnderTest> MakeLogUnderTest(Over over) {
  if (over == Over::kDatabase) return std::make_unique<DatabaseLog>();
  return std::make_unique<StoreLog>();
}
inline std::string NameOf(Over over) { return over == Over::kDatabase ? "Database" : "Store"; }

}  // namespace omni::testing
