#include "store/state/database.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include "tests/testing/power_cut.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using testing::DiskRecorder;
using ::testing::ElementsAre;
using testing::FileCall;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Optional;
using ::testing::Pair;
using testing::TempDir;

using Entries = std::vector<std::pair<std::string, std::string>>;

Entries All(const Database& db, const std::string& prefix = "") {
  Entries entries;
  const absl::Status s = db.ForEach(prefix, [&](std::string_view key, std::string_view value) {
    entries.emplace_back(key, value);
    return absl::OkStatus();
  });
  EXPECT_TRUE(s.ok()) << s;
  return entries;
}

std::unique_ptr<Database> Opened(const std::string& dir, const DatabaseOptions& options = {}) {
  auto db = Database::Open(dir, options);
  EXPECT_TRUE(db.ok()) << db.status();
  return db.ok() ? *std::move(db) : nullptr;
}

class DatabaseTest : public ::testing::Test {
 protected:
  TempDir temp_ = TempDir::InMemory();
  std::string dir_ = temp_ / "db";
};

TEST_F(DatabaseTest, AFolderThatCannotBeLookedIntoIsAnError) {
  const std::string too_long = temp_ / std::string(300, 'x');
  const absl::Status status = Database::Open(too_long, {}).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr(too_long));
}

TEST_F(DatabaseTest, KeepsWhatWasWrittenInTheOrderOfItsKeys) {
  const std::string zero("a\0b", 3);
  {
    const auto db = Opened(dir_);
    ASSERT_NE(db, nullptr);
    ASSERT_TRUE(db->Put("b/2", "two").ok());
    ASSERT_TRUE(db->Put("b/10", "").ok());
    ASSERT_TRUE(db->Put(zero, std::string("\0\xff", 2)).ok());
    ASSERT_TRUE(db->Put("c", "gone").ok());
    ASSERT_TRUE(db->Delete("c").ok());
    ASSERT_TRUE(db->Delete("never there").ok());
  }
  const auto db = Opened(dir_, {.create = false});
  ASSERT_NE(db, nullptr);
  EXPECT_THAT(All(*db),
              ElementsAre(Pair(zero, std::string("\0\xff", 2)), Pair("b/10", ""), Pair("b/2", "two")));
  EXPECT_THAT(All(*db, "b/"), ElementsAre(Pair("b/10", ""), Pair("b/2", "two")));
  EXPECT_THAT(*db->Get("b/2"), Optional(std::string("two")));
  EXPECT_EQ(*db->Get("c"), std::nullopt);
}

TEST_F(DatabaseTest, AWalkEndsWithItsVisitorsError) {
  const auto db = Opened(dir_);
  for (const char* key : {"a", "b", "c"}) ASSERT_TRUE(db->Put(key, "").ok());
  int visits = 0;
  const absl::Status status = db->ForEach("", [&](std::string_view, std::string_view) {
    return ++visits == 2 ? absl::CancelledError("enough") : absl::OkStatus();
  });
  EXPECT_EQ(status.message(), "enough");
  EXPECT_EQ(visits, 2);
}

TEST_F(DatabaseTest, ASnapshotStaysAsItWas) {
  const auto db = Opened(dir_);
  ASSERT_TRUE(db->Put("a", "1").ok());
  {
    const Database::Snapshot before = db->TakeSnapshot();
    DatabaseBatch batch;
    batch.Put("a", "2");
    batch.Put("b", "3");
    EXPECT_EQ(batch.changes(), 2);
    ASSERT_TRUE(db->Write(batch).ok());
    EXPECT_THAT(*before.Get("a"), Optional(std::string("1")));
    EXPECT_EQ(*before.Get("b"), std::nullopt);
    const absl::Status s = db->Close();
    EXPECT_EQ(s.code(), absl::StatusCode::kFailedPrecondition) << s;
    EXPECT_THAT(All(*db), ElementsAre(Pair("a", "2"), Pair("b", "3")));
  }
  EXPECT_TRUE(db->Close().ok());
  EXPECT_TRUE(db->Close().ok());
  EXPECT_EQ(db->Put("a", "").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(db->Get("a").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(db->ForEach("", nullptr).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(DatabaseTest, ManyThreadsWriteAndReadAtOnce) {
  const auto db = Opened(dir_, {.durability = Durability::kUnsynced, .memory_bytes = 64 << 10});
  constexpr int kThreads = 4, kKeys = 500;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kKeys; ++i) {
        const std::string key = absl::StrCat(t, "/", i);
        ASSERT_TRUE(db->Put(key, std::string(200, static_cast<char>('a' + t))).ok());
        ASSERT_THAT(*db->Get(key), Optional(std::string(200, static_cast<char>('a' + t))));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(All(*db).size(), size_t{kThreads} * kKeys);
}

TEST_F(DatabaseTest, SaysWhatIsWrong) {
  EXPECT_EQ(Database::Open(dir_, {.create = false}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Database::Open(temp_ / "none/db", {}).status().code(), absl::StatusCode::kNotFound);
  {
    const auto db = Opened(dir_);
    ASSERT_TRUE(db->Put("a", "1").ok());
    const absl::Status second = Database::Open(dir_, {}).status();
    EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition) << second;
    EXPECT_THAT(std::string(second.message()), HasSubstr(dir_ + ": is open already"));
  }
  std::ofstream(fs::path(dir_) / "CURRENT", std::ios::trunc) << "MANIFEST-999999\n";
  const absl::Status damaged = Database::Open(dir_, {}).status();
  EXPECT_THAT(std::string(damaged.message()), HasSubstr(dir_));
  EXPECT_FALSE(damaged.ok());
  fs::remove_all(dir_);
  std::ofstream(dir_) << "a file";
  EXPECT_FALSE(Database::Open(dir_, {}).ok());
}

TEST_F(DatabaseTest, DamagedBytesAreNeverGivenForWhatWasWritten) {
  const std::string value(3000, 'v');
  {
    const auto db = Opened(dir_, {.memory_bytes = 64 << 10});
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(db->Put(absl::StrCat("key", 100 + i), value).ok());
  }
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(dir_)) {
    const std::string end = entry.path().extension();
    if (end == ".sst" || end == ".log") files.push_back(entry.path());
  }
  ASSERT_FALSE(files.empty());
  const fs::path copy = temp_ / "copy";
  int refused = 0, tried = 0;
  for (const fs::path& file : files) {
    const auto bytes = static_cast<int64_t>(fs::file_size(file));
    for (int64_t at = 100; at < bytes; at += bytes / 7 + 1) {
      fs::remove_all(copy);
      fs::copy(dir_, copy, fs::copy_options::recursive);
      std::fstream out(copy / file.filename(), std::ios::in | std::ios::out | std::ios::binary);
      out.seekg(at);
      const int byte = out.get();
      out.seekp(at);
      out.put(static_cast<char>(byte ^ 1));
      out.close();
      ++tried;
      auto db = Database::Open(copy, {});
      absl::Status status = db.status();
      if (db.ok()) {
        status = (*db)->ForEach("", [&](std::string_view, std::string_view v) {
          EXPECT_EQ(v, value);
          return absl::OkStatus();
        });
      }
      if (status.ok()) continue;
      ++refused;
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("bring back a copy"));
    }
  }
  EXPECT_GE(refused, tried / 2);
}

// Refuses writes, of every file or of those whose path ends so.
class Refuse : public testing::FileWatcher {
 public:
  explicit Refuse(FileCall::Kind kind, int error) : kind_(kind), error_(error) {}
  bool on = false;
  int Before(const FileCall& call) override {
    return on && call.kind == kind_ && call.path.ends_with(".log") ? error_ : 0;
  }

 private:
  FileCall::Kind kind_;
  int error_;
};

TEST_F(DatabaseTest, AfterAFullDiskOrAFailedSyncItGoesOn) {
  for (const auto& [kind, error] :
       {std::pair(FileCall::Kind::kWrite, ENOSPC), {FileCall::Kind::kSync, EIO}}) {
    fs::remove_all(dir_);
    Refuse refuse(kind, error);
    const testing::WatchFiles watch(refuse);
    std::set<std::string> acknowledged;
    {
      const auto db = Opened(dir_);
      ASSERT_TRUE(db->Put("before", "1").ok());
      acknowledged.insert("before");
      refuse.on = true;
      const absl::Status failed = db->Put("refused", "1");
      EXPECT_EQ(failed.code(),
                error == ENOSPC ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kUnavailable)
          << failed;
      EXPECT_EQ(*db->Get("refused"), std::nullopt);
      EXPECT_FALSE(db->Put("refused", "1").ok());  // nor can it be opened again
      refuse.on = false;
      {
        const Database::Snapshot snapshot = db->TakeSnapshot();
        EXPECT_EQ(db->Put("after", "1").code(), absl::StatusCode::kFailedPrecondition);
      }
      const absl::Status after = db->Put("after", "1");
      EXPECT_TRUE(after.ok()) << after;
      if (after.ok()) acknowledged.insert("after");
    }
    const auto db = Opened(dir_);
    ASSERT_NE(db, nullptr);
    for (const std::string& key : acknowledged) EXPECT_THAT(*db->Get(key), Optional(std::string("1"))) << key;
  }
}

// Batches of two keys with the same value, one after the other; each is promised once it is acknowledged.
constexpr int kBatches = 6;

absl::Status WriteBatches(const std::string& dir, Durability durability, DiskRecorder& disk) {
  auto db = Database::Open(dir, {.durability = durability});
  if (!db.ok()) return db.status();
  for (int i = 0; i < kBatches; ++i) {
    DatabaseBatch batch;
    batch.Put(absl::StrCat("a", i), absl::StrCat(i));
    batch.Put(absl::StrCat("b", i), absl::StrCat(i));
    if (absl::Status s = (*db)->Write(batch); !s.ok()) return s;
    if (durability == Durability::kSynced) disk.Promise(absl::StrCat(i));
  }
  if (durability == Durability::kUnsynced) {
    if (absl::Status s = (*db)->Sync(); !s.ok()) return s;
    disk.Promise(absl::StrCat(kBatches - 1));
  }
  return (*db)->Close();
}

// What it holds must be the first batches, whole, at least those promised.
std::string Problem(const std::string& dir, const std::vector<std::string>& promises) {
  int least = 0;
  if (!promises.empty() && absl::SimpleAtoi(promises.back(), &least)) ++least;
  if (!fs::exists(dir)) return least == 0 ? "" : "the database is gone";
  auto db = Database::Open(dir, {});
  if (!db.ok()) return std::string(db.status().message());
  std::map<std::string, std::string> held;
  for (auto& [key, value] : All(**db)) held[key] = value;
  const int batches = static_cast<int>(held.size() / 2);
  if (held.size() % 2 != 0) return "half a batch";
  if (batches < least) return absl::StrCat("of ", least, " batches only ", batches);
  for (int i = 0; i < batches; ++i) {
    const std::string value = absl::StrCat(i);
    if (held[absl::StrCat("a", i)] != value || held[absl::StrCat("b", i)] != value)
      return "not the first ones";
  }
  return "";
}

class DatabasePowerCut : public DatabaseTest, public ::testing::WithParamInterface<Durability> {};

TEST_P(DatabasePowerCut, WhatWasAcknowledgedIsThereAfterAnyAndOfABatchAllOrNothing) {
  fs::create_directory(temp_ / "disk");
  DiskRecorder disk(temp_ / "disk");
  const absl::Status written = WriteBatches(temp_ / "disk/db", GetParam(), disk);
  disk.Stop();
  ASSERT_TRUE(written.ok()) << written;
  const auto check = [](const std::string& dir, const std::vector<std::string>& promises) {
    return Problem(dir + "/db", promises);
  };
  EXPECT_THAT(testing::ProblemsAfterCuts(disk, temp_ / "scratch", check), IsEmpty());
  EXPECT_THAT(testing::NeedlessSyncs(disk, temp_ / "scratch", check), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Each, DatabasePowerCut,
                         ::testing::Values(Durability::kSynced, Durability::kUnsynced), [](const auto& info) {
                           return info.param == Durability::kSynced ? "Synced" : "Unsynced";
                         });

}  // namespace
}  // namespace omni
