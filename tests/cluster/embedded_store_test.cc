// What only the embedded store does: outlive its process and power cuts, and go by a clock that a test sets.
#include "cluster/embedded_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>

#include "tests/testing/power_cut.h"
#include "tests/testing/store_calls.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using testing::DiskRecorder;
using testing::FileCall;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::StoreCalls;
using testing::TempDir;
using testing::Text;
using testing::WatchLog;

std::unique_ptr<EmbeddedStore> Opened(const std::string& dir, EmbeddedStoreOptions options = {}) {
  auto store = EmbeddedStore::Open(dir, std::move(options));
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

class EmbeddedStoreTest : public ::testing::TestWithParam<Durability> {
 protected:
  EmbeddedStoreOptions Options() { return {.durability = GetParam()}; }
  TempDir temp_ = TempDir::InMemory();
  std::string dir_ = temp_ / "store";
};

TEST_P(EmbeddedStoreTest, IsThereAgainWhenItIsOpenedAgain) {
  const std::string key("a\0\xff", 3), value("\0\xff", 2);
  Revision first = 0, last = 0;
  LeaseId lease = 0, revoked = 0;
  {
    const auto store = Opened(dir_, Options());
    StoreCalls calls(*store);
    first = calls.MustPut(key, value);
    lease = calls.MustGrant(kMaxLeaseTtl);
    calls.MustPut("of a lease", "2", lease);
    calls.MustPut("gone", "3");
    last = calls.MustDelete("gone");
    revoked = calls.MustGrant(kMaxLeaseTtl);
    EXPECT_TRUE(*calls.Revoke(revoked));
  }
  const auto store = Opened(dir_, Options());
  StoreCalls calls(*store);
  const Records read = calls.MustRead("");
  EXPECT_GE(read.revision, last);
  ASSERT_EQ(read.records.size(), 2u);
  EXPECT_EQ(read.records[0].key, key);
  EXPECT_EQ(read.records[0].value, value);
  EXPECT_EQ(read.records[0].created, first);
  EXPECT_EQ(read.records[0].changed, first);
  EXPECT_EQ(read.records[1].lease, lease);
  EXPECT_EQ(*calls.KeepAlive(lease), kMaxLeaseTtl);
  WatchLog past, next;
  const auto past_watcher = store->Watch("", last, past.callback());
  const auto next_watcher = store->Watch("", read.revision + 1, next.callback());
  EXPECT_EQ(past.Next().status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_GT(calls.MustGrant(kMaxLeaseTtl), revoked) << "a lease was given again";
  EXPECT_TRUE(*calls.Revoke(lease));
  EXPECT_EQ(Text(next.Next()), absl::StrCat(read.revision + 1, ": -of a lease"));
  EXPECT_EQ(calls.MustCommit({.conditions = {{.key = key, .changed = first}}, .changes = {{.key = key}}}),
            read.revision + 2);
}

TEST_P(EmbeddedStoreTest, LeasesEndByTheClockItIsGiven) {
  std::atomic<int64_t> milliseconds_now = 5;
  EmbeddedStoreOptions options = Options();
  options.now = [&] { return std::chrono::steady_clock::time_point(milliseconds(milliseconds_now)); };
  WatchLog log;
  {
    const auto store = Opened(dir_, options);
    StoreCalls calls(*store);
    const LeaseId lease = calls.MustGrant(milliseconds(100));
    const Revision put = calls.MustPut("a", "1", lease);
    const auto watcher = store->Watch("", put + 1, log.callback());
    milliseconds_now = 104;
    store->Tick();
    EXPECT_EQ(calls.MustRead("").records.size(), 1u);
    EXPECT_EQ(log.told(), 0);
    milliseconds_now = 105;
    store->Tick();
    EXPECT_EQ(Text(log.Next()), absl::StrCat(put + 1, ": -a"));
    calls.MustPut("b", "1", calls.MustGrant(milliseconds(100)));
    milliseconds_now = 204;
  }
  // Opened again, the lease has its whole time.
  const auto store = Opened(dir_, options);
  StoreCalls calls(*store);
  milliseconds_now = 303;
  EXPECT_EQ(calls.MustRead("").records.size(), 1u);
  milliseconds_now = 304;
  EXPECT_EQ(calls.MustRead("").records.size(), 0u);
}

// Commits until it kills its own process.
void CommitAndBeKilled(const std::string& dir, const EmbeddedStoreOptions& options, int commits) {
  const auto store = Opened(dir, options);
  StoreCalls calls(*store);
  for (int i = 0; i < commits; ++i) calls.MustPut(absl::StrCat("k", i), absl::StrCat(i));
  ::kill(::getpid(), SIGKILL);
}

TEST_P(EmbeddedStoreTest, AKilledProcessLosesNothing) {
  // The test program begins afresh for the part that is killed, and finds the folder by this name.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const std::string variable =
      absl::StrCat("OMNI_TEST_STORE_", GetParam() == Durability::kSynced ? "SYNCED" : "UNSYNCED");
  ::setenv(variable.c_str(), dir_.c_str(), 0);
  constexpr int kCommits = 200;
  EXPECT_EXIT(CommitAndBeKilled(::getenv(variable.c_str()), Options(), kCommits),
              ::testing::KilledBySignal(SIGKILL), "");
  ::unsetenv(variable.c_str());
  const auto store = Opened(dir_, Options());
  StoreCalls calls(*store);
  const Records read = calls.MustRead("");
  ASSERT_EQ(read.records.size(), size_t{kCommits});
  EXPECT_GE(read.revision, kCommits);
  for (const Record& record : read.records) EXPECT_EQ("k" + record.value, record.key);
}

// Commits k0, k1, … one after the other, with a lease each; what was told is promised as "REVISION LEASE".
constexpr int kSteps = 4;

absl::Status CommitSteps(const std::string& dir, const EmbeddedStoreOptions& options, DiskRecorder& disk) {
  auto store = EmbeddedStore::Open(dir, options);
  if (!store.ok()) return store.status();
  StoreCalls calls(**store);
  for (int i = 0; i < kSteps; ++i) {
    const auto lease = calls.Grant(kMaxLeaseTtl);
    if (!lease.ok()) return lease.status();
    const auto committed =
        calls.Commit({.changes = {{.key = absl::StrCat("k", i), .value = absl::StrCat(i), .lease = *lease}}});
    if (!committed.ok()) return committed.status();
    disk.Promise(absl::StrCat(committed->revision, " ", *lease));
  }
  return absl::OkStatus();
}

// After a power cut it holds the first of the steps, all that were promised if each was synced; and neither a
// revision nor a lease that was told is given again.
std::string Problem(const std::string& dir, const EmbeddedStoreOptions& options,
                    const std::vector<std::string>& promises) {
  if (!fs::exists(dir)) return promises.empty() ? "" : "the store is gone";
  auto store = EmbeddedStore::Open(dir, options);
  if (!store.ok()) return std::string(store.status().message());
  StoreCalls calls(**store);
  const auto read = calls.Read("");
  if (!read.ok()) return std::string(read.status().message());
  for (size_t i = 0; i < read->records.size(); ++i) {
    if (read->records[i].key != absl::StrCat("k", i)) return "not the first steps";
  }
  if (options.durability == Durability::kSynced && read->records.size() < promises.size())
    return absl::StrCat("of ", promises.size(), " steps only ", read->records.size());
  if (promises.empty()) return "";
  const std::vector<std::string> told = absl::StrSplit(promises.back(), ' ');
  Revision revision = 0;
  LeaseId lease = 0;
  if (!absl::SimpleAtoi(told[0], &revision) || !absl::SimpleAtoi(told[1], &lease)) return "no promise";
  if (calls.MustPut("next", "") <= revision) return absl::StrCat("revision ", revision, " was given again");
  if (calls.MustGrant(kMaxLeaseTtl) <= lease) return absl::StrCat("lease ", lease, " was given again");
  return "";
}

TEST_P(EmbeddedStoreTest, APowerCutTakesNothingThatWasSyncedAndNeverGivesANumberAgain) {
  fs::create_directory(temp_ / "disk");
  DiskRecorder disk(temp_ / "disk");
  const absl::Status written = CommitSteps(temp_ / "disk/store", Options(), disk);
  disk.Stop();
  ASSERT_TRUE(written.ok()) << written;
  const auto check = [&](const std::string& dir, const std::vector<std::string>& promises) {
    return Problem(dir + "/store", Options(), promises);
  };
  EXPECT_THAT(testing::ProblemsAfterCuts(disk, temp_ / "scratch", check), IsEmpty());
}

// Refuses writes or syncs of the database's log.
class Refuse : public testing::FileWatcher {
 public:
  std::atomic<int> error = 0;
  std::atomic<FileCall::Kind> kind = FileCall::Kind::kWrite;
  int Before(const FileCall& call) override {
    return call.kind == kind && call.path.ends_with(".log") ? error.load() : 0;
  }
};

TEST_P(EmbeddedStoreTest, WhileTheDiskIsFullCommitsAreUnavailableAndThenItGoesOn) {
  Refuse refuse;
  const testing::WatchFiles watch(refuse);
  auto store = Opened(dir_, Options());
  StoreCalls calls(*store);
  const Revision before = calls.MustPut("a", "1");
  WatchLog log;
  auto watcher = store->Watch("", before + 1, log.callback());
  refuse.error = ENOSPC;
  const absl::Status full = calls.Commit({.changes = {{.key = "a", .value = "2"}}}).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kUnavailable) << full;
  EXPECT_THAT(std::string(full.message()), HasSubstr("free some space"));
  EXPECT_EQ(calls.Read("").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(calls.Commit({}).status().code(), absl::StatusCode::kUnavailable);
  refuse.error = 0;
  const Records read = calls.MustRead("");
  const Revision after = calls.MustPut("a", "3");
  EXPECT_EQ(after, read.revision + 1);
  // The watcher was told what the store says happened, no more and no less.
  absl::StatusOr<Changes> told = log.Next();
  if (read.revision == before + 1) {
    EXPECT_EQ(Text(told), absl::StrCat(before + 1, ": a=2"));
    told = log.Next();
  }
  EXPECT_EQ(Text(told), absl::StrCat(after, ": a=3"));
  watcher.reset();
  store = nullptr;
  store = Opened(dir_, Options());
  EXPECT_EQ(StoreCalls(*store).MustRead("").records.at(0).value, "3");
}

TEST_P(EmbeddedStoreTest, ADamagedOrForeignDatabaseIsAnError) {
  {
    const auto store = Opened(dir_, Options());
    StoreCalls(*store).MustPut("a", "1");
    const absl::Status second = EmbeddedStore::Open(dir_, Options()).status();
    EXPECT_THAT(std::string(second.message()), HasSubstr("is open already"));
  }
  {
    const auto database = Database::Open(temp_ / "foreign", {});
    ASSERT_TRUE(database.ok());
    ASSERT_TRUE((*database)->Put("something", "else").ok());
  }
  const absl::Status foreign = EmbeddedStore::Open(temp_ / "foreign", Options()).status();
  EXPECT_EQ(foreign.code(), absl::StatusCode::kDataLoss) << foreign;
  EXPECT_THAT(std::string(foreign.message()), HasSubstr("foreign: an entry that no version"));
  // Each of these entries cannot be; what is said names the folder and the cure.
  const std::string minus_one(8, '\xff'), zero(8, '\0'), one = std::string("\1") + std::string(7, '\0');
  const std::vector<std::pair<std::pair<std::string, std::string>, std::string>> wrong = {
      {{"f", "omni coordination 2"}, "'omni coordination 2'"},
      {{"n", "short"}, "an entry that no version"},
      {{"n", minus_one + minus_one + minus_one}, "negative"},
      {{"l" + one, minus_one}, "was never given"},
      {{"rx", minus_one + zero + zero}, "impossible revisions"},
      {{"rx", one + one + one}, "lease 1, which is not there"},
      {{"rx", "short"}, "an entry that no version"}};
  for (const auto& [entry, says] : wrong) {
    fs::remove_all(temp_ / "copy");
    fs::copy(dir_, temp_ / "copy", fs::copy_options::recursive);
    {
      const auto database = Database::Open(temp_ / "copy", {});
      ASSERT_TRUE(database.ok());
      ASSERT_TRUE((*database)->Put(entry.first, entry.second).ok());
    }
    const absl::Status damaged = EmbeddedStore::Open(temp_ / "copy", Options()).status();
    EXPECT_EQ(damaged.code(), absl::StatusCode::kDataLoss) << damaged;
    EXPECT_THAT(std::string(damaged.message()), HasSubstr(says));
    EXPECT_THAT(std::string(damaged.message()), HasSubstr(temp_ / "copy"));
  }
  std::ofstream(fs::path(dir_) / "CURRENT", std::ios::trunc) << "MANIFEST-999999\n";
  const absl::Status damaged = EmbeddedStore::Open(dir_, Options()).status();
  EXPECT_FALSE(damaged.ok());
  EXPECT_THAT(std::string(damaged.message()), HasSubstr(dir_));
}

INSTANTIATE_TEST_SUITE_P(Each, EmbeddedStoreTest,
                         ::testing::Values(Durability::kSynced, Durability::kUnsynced), [](const auto& info) {
                           return info.param == Durability::kSynced ? "Synced" : "Unsynced";
                         });

}  // namespace
}  // namespace omni
