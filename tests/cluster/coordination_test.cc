// What every coordination store does, as cluster/coordination.h says.
#include "cluster/coordination.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <future>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include "cluster/embedded_store.h"
#include "cluster/etcd_store.h"
#include "tests/testing/etcd.h"
#include "tests/testing/store_calls.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::Eq;
using testing::EtcdCluster;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kPatience;
using testing::StoreCalls;
using testing::TempDir;
using testing::Text;
using testing::WatchLog;

enum class Kind { kEmbedded, kEtcdOfOne, kEtcdOfThree };

// Both are started when a test first needs them, and serve all tests of the program.
std::map<int, std::unique_ptr<EtcdCluster>>& Clusters() {
  static auto& clusters = *new std::map<int, std::unique_ptr<EtcdCluster>>;
  return clusters;
}
class EndClusters : public ::testing::Environment {
  void TearDown() override { Clusters().clear(); }
};
const auto* const kEnd = ::testing::AddGlobalTestEnvironment(new EndClusters);

class CoordinationTest : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (GetParam() == Kind::kEmbedded) {
      store_ = Opened({});
    } else {
      if (const std::string why = EtcdCluster::WhyNot(); !why.empty()) GTEST_SKIP() << "SKIPPED: " << why;
      const int members = GetParam() == Kind::kEtcdOfOne ? 1 : 3;
      std::unique_ptr<EtcdCluster>& cluster = Clusters()[members];
      if (cluster == nullptr) {
        auto started = EtcdCluster::Start({.members = members});
        ASSERT_TRUE(started.ok()) << started.status();
        cluster = *std::move(started);
      }
      endpoints_ = cluster->endpoints();
      store_ = Opened({});
    }
    ASSERT_NE(store_, nullptr);
  }

  struct Options {
    size_t max_calls = 4096;
    std::string name;  // tells stores of one test apart
  };
  std::unique_ptr<CoordinationStore> Opened(const Options& options) {
    if (endpoints_.empty()) {
      auto store = EmbeddedStore::Open(dir_ / ("store" + options.name), {.max_calls = options.max_calls});
      EXPECT_TRUE(store.ok()) << store.status();
      return store.ok() ? *std::move(store) : nullptr;
    }
    // A name space for each test keeps them apart.
    EtcdOptions etcd{.endpoints = endpoints_,
                     .prefix = absl::StrCat(::testing::UnitTest::GetInstance()->current_test_info()->name(),
                                            options.name, "/"),
                     .call_timeout = std::chrono::seconds(30),
                     .attempt_timeout = std::chrono::seconds(10),
                     .max_calls = options.max_calls};
    auto store = EtcdStore::Open(etcd);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }

  StoreCalls calls() { return StoreCalls(*store_); }
  std::vector<std::string> KeysOf(const std::string& prefix) {
    std::vector<std::string> keys;
    for (const Record& record : calls().MustRead(prefix).records) keys.push_back(record.key);
    return keys;
  }

  TempDir dir_ = TempDir::InMemory();
  std::vector<std::string> endpoints_;
  std::unique_ptr<CoordinationStore> store_;
};

TEST_P(CoordinationTest, CreatesARecordOnlyWhereThereIsNone) {
  const Transaction create{.conditions = {{.key = "a"}}, .changes = {{.key = "a", .value = "1"}}};
  const auto first = calls().Commit(create);
  ASSERT_TRUE(first.ok() && first->applied) << first.status();
  const auto second = calls().Commit(
      {.conditions = {{.key = "a"}}, .changes = {{.key = "a", .value = "2"}, {.key = "b", .value = "2"}}});
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_FALSE(second->applied);
  EXPECT_EQ(second->revision, first->revision);
  const Records read = calls().MustRead("");
  ASSERT_EQ(read.records.size(), 1u);
  EXPECT_EQ(read.records[0].value, "1");
  EXPECT_EQ(read.records[0].created, first->revision);
  EXPECT_EQ(read.records[0].changed, first->revision);
  EXPECT_GE(read.revision, first->revision);
}

TEST_P(CoordinationTest, ChangesARecordOnlyAtTheRevisionThatWasRead) {
  const Revision created = calls().MustPut("a", "1");
  const Revision changed = calls().MustPut("a", "2");
  ASSERT_GT(changed, created);
  const auto stale = calls().Commit(
      {.conditions = {{.key = "a", .changed = created}}, .changes = {{.key = "a", .value = "3"}}});
  EXPECT_TRUE(stale.ok() && !stale->applied) << stale.status();
  const auto fresh = calls().Commit(
      {.conditions = {{.key = "a", .changed = changed}}, .changes = {{.key = "a", .value = "3"}}});
  ASSERT_TRUE(fresh.ok() && fresh->applied) << fresh.status();
  const Records read = calls().MustRead("a");
  ASSERT_EQ(read.records.size(), 1u);
  EXPECT_EQ(read.records[0].value, "3");
  EXPECT_EQ(read.records[0].created, created);
  EXPECT_EQ(read.records[0].changed, fresh->revision);
  const auto gone = calls().Commit(
      {.conditions = {{.key = "b", .changed = fresh->revision}}, .changes = {{.key = "b", .value = "x"}}});
  EXPECT_TRUE(gone.ok() && !gone->applied) << gone.status();
}

TEST_P(CoordinationTest, OfATransactionAllHappensAtOneRevisionOrNothing) {
  const Revision a = calls().MustPut("a", "1"), b = calls().MustPut("b", "1");
  const auto refused =
      calls().Commit({.conditions = {{.key = "a", .changed = a}, {.key = "b", .changed = a}},
                      .changes = {{.key = "a"}, {.key = "b", .value = "2"}, {.key = "c", .value = "2"}}});
  EXPECT_TRUE(refused.ok() && !refused->applied) << refused.status();
  EXPECT_THAT(KeysOf(""), ElementsAre("a", "b"));
  const Revision all =
      calls().MustCommit({.conditions = {{.key = "a", .changed = a}, {.key = "b", .changed = b}},
                          .changes = {{.key = "a"}, {.key = "b", .value = "2"}, {.key = "c", .value = "2"}}});
  const Records read = calls().MustRead("");
  ASSERT_EQ(read.records.size(), 2u);
  for (const Record& record : read.records) {
    EXPECT_EQ(record.changed, all) << record.key;
    EXPECT_EQ(record.value, "2") << record.key;
  }
}

TEST_P(CoordinationTest, RevisionsCountOnlyWhatChangesSomething) {
  const Revision before = calls().MustPut("a", "1");
  EXPECT_EQ(calls().MustDelete("never there"), before);
  EXPECT_EQ(calls().MustCommit({}), before);
  EXPECT_EQ(calls().MustCommit({.conditions = {{.key = "a", .changed = before}}}), before);
  EXPECT_EQ(calls().MustRead("").revision, before);
  EXPECT_EQ(calls().MustPut("a", "1"), before + 1) << "the same value is a change";
  EXPECT_EQ(calls().MustDelete("a"), before + 2);
}

TEST_P(CoordinationTest, ReadsAllRecordsInTheOrderOfTheirKeys) {
  constexpr int kRecords = 1300;
  for (int i = 0; i < kRecords;) {
    Transaction some;
    for (int n = 0; n < 100 && i < kRecords; ++n, ++i)
      some.changes.push_back({.key = absl::StrCat("many/", i), .value = absl::StrCat("value ", i)});
    calls().MustCommit(some);
  }
  const Records read = calls().MustRead("many/");
  ASSERT_EQ(read.records.size(), size_t{kRecords});
  for (size_t i = 1; i < read.records.size(); ++i) ASSERT_LT(read.records[i - 1].key, read.records[i].key);
  for (const Record& record : read.records)
    ASSERT_EQ(record.value, absl::StrCat("value ", record.key.substr(5)));
}

TEST_P(CoordinationTest, AReadIsOfOneRevisionWhileOthersWrite) {
  // Each transaction gives two distant records the same value, with more than one answer's worth between.
  Transaction between;
  for (int i = 0; i < 120; ++i) between.changes.push_back({.key = absl::StrCat("m", i), .value = "x"});
  calls().MustCommit(between);
  std::atomic<bool> stop = false;
  calls().MustCommit({.changes = {{.key = "a", .value = "0"}, {.key = "z", .value = "0"}}});
  std::thread writer([&] {
    for (int i = 1; !stop; ++i) {
      const std::string value = absl::StrCat(i);
      calls().MustCommit({.changes = {{.key = "a", .value = value}, {.key = "z", .value = value}}});
    }
  });
  Revision last = 0;
  for (int i = 0; i < 50; ++i) {
    const Records read = calls().MustRead("");
    EXPECT_EQ(read.records.front().value, read.records.back().value);
    EXPECT_EQ(read.records.front().changed, read.records.back().changed);
    EXPECT_GE(read.revision, std::max(last, read.records.front().changed));
    last = read.revision;
  }
  stop = true;
  writer.join();
}

TEST_P(CoordinationTest, APrefixMeansTheKeysThatBeginWithIt) {
  const std::string ff = "\xff", zero("\0", 1);
  const std::set<std::string> keys = {"a",     "a/",     "a/1",    "a0",           "b",  ff,
                                      ff + ff, ff + "x", "a" + ff, "a" + ff + "z", zero, "a" + zero};
  for (const std::string& key : keys) calls().MustPut(key, "v");
  for (const std::string& prefix : {std::string(), std::string("a"), std::string("a/"), ff, ff + ff, "a" + ff,
                                    std::string("c"), zero, "a" + zero}) {
    std::vector<std::string> expected;
    for (const std::string& key : keys) {
      if (key.starts_with(prefix)) expected.push_back(key);
    }
    EXPECT_EQ(KeysOf(prefix), expected) << ::testing::PrintToString(prefix);
    WatchLog log;
    const auto watcher = store_->Watch(prefix, calls().MustRead("").revision + 1, log.callback());
    Transaction all;
    for (const std::string& key : keys) all.changes.push_back({.key = key, .value = "w"});
    all.changes.push_back({.key = "cc", .value = "w"});
    all.changes.push_back({.key = prefix.empty() ? "x" : prefix, .value = "w"});
    all.changes.erase(std::remove_if(all.changes.begin(), all.changes.end() - 1,
                                     [&](const Change& c) { return c.key == all.changes.back().key; }),
                      all.changes.end() - 1);
    calls().MustCommit(all);
    const auto told = log.Next();
    ASSERT_TRUE(told.ok()) << told.status();
    std::vector<std::string> told_keys;
    for (const Record& record : told->put) told_keys.push_back(record.key);
    EXPECT_EQ(told_keys, KeysOf(prefix)) << ::testing::PrintToString(prefix);
    calls().MustCommit({.changes = {{.key = "cc"}, {.key = "c"}, {.key = "x"}}});
  }
}

TEST_P(CoordinationTest, ValuesAreAnyBytes) {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes.push_back(static_cast<char>(i));
  calls().MustPut(bytes, bytes);
  calls().MustPut("empty", "");
  calls().MustPut("large", std::string(kMaxTransactionBytes - 5, '\xff'));
  const Records read = calls().MustRead("");
  ASSERT_EQ(read.records.size(), 3u);
  EXPECT_EQ(read.records[0].key, bytes);
  EXPECT_EQ(read.records[0].value, bytes);
  EXPECT_EQ(read.records[1].value, "");
  EXPECT_EQ(read.records[2].value, std::string(kMaxTransactionBytes - 5, '\xff'));
}

TEST_P(CoordinationTest, RefusesWhatIsNoTransactionAndNoLease) {
  Transaction many_changes, many_conditions;
  for (size_t i = 0; i <= kMaxTransactionItems; ++i) {
    many_changes.changes.push_back({.key = absl::StrCat(i), .value = "x"});
    many_conditions.conditions.push_back({.key = absl::StrCat(i)});
  }
  const std::vector<std::pair<Transaction, std::string>> wrong = {
      {{.changes = {{.key = "", .value = "x"}}}, "without a key"},
      {{.conditions = {{.key = ""}}}, "without a key"},
      {{.conditions = {{.key = "a", .changed = -1}}}, "revision -1"},
      {{.changes = {{.key = "a", .value = "x"}, {.key = "a"}}}, "twice"},
      {{.changes = {{.key = "a", .lease = 1}}}, "names a lease"},
      {{.changes = {{.key = "a", .value = std::string(kMaxTransactionBytes, 'x')}}}, "bytes; at most"},
      {many_changes, "129 changes"},
      {many_conditions, "129 conditions"}};
  for (const auto& [transaction, says] : wrong) {
    const auto refused = calls().Commit(transaction);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument) << refused.status();
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr(says));
  }
  many_changes.changes.pop_back();
  calls().MustCommit(many_changes);
  EXPECT_EQ(KeysOf("").size(), kMaxTransactionItems);
  for (const milliseconds ttl : {milliseconds(0), milliseconds(-5), kMaxLeaseTtl + milliseconds(1)})
    EXPECT_EQ(calls().Grant(ttl).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(CoordinationTest, ALeasesEndTakesItsRecordsAtOneRevision) {
  calls().MustPut("stays", "1");
  const auto asked = std::chrono::steady_clock::now();
  const milliseconds ttl(1000);
  const LeaseId lease = calls().MustGrant(ttl);
  ASSERT_NE(lease, 0);
  calls().MustPut("b", "1", lease);
  calls().MustPut("moved", "1", lease);
  calls().MustPut("moved", "2");  // to no lease
  const Revision put = calls().MustPut("a", "1", lease);
  EXPECT_EQ(calls().MustRead("a").records.at(0).lease, lease);
  WatchLog log;
  const auto watcher = store_->Watch("", put + 1, log.callback());
  EXPECT_EQ(Text(log.Next()), absl::StrCat(put + 1, ": -a -b"));
  EXPECT_GE(std::chrono::steady_clock::now() - asked, ttl) << "sooner than its ttl";
  EXPECT_THAT(KeysOf(""), ElementsAre("moved", "stays"));
  EXPECT_EQ(calls().KeepAlive(lease).status().code(), absl::StatusCode::kNotFound);
  const auto late = calls().Commit({.changes = {{.key = "late", .value = "1", .lease = lease}}});
  EXPECT_EQ(late.status().code(), absl::StatusCode::kNotFound) << late.status();
  EXPECT_THAT(KeysOf("late"), IsEmpty());
}

TEST_P(CoordinationTest, ALeaseThatIsKeptAliveDoesNotEnd) {
  const LeaseId lease = calls().MustGrant(milliseconds(1500));
  const auto ttl = calls().KeepAlive(lease);
  ASSERT_TRUE(ttl.ok()) << ttl.status();
  EXPECT_GE(*ttl, milliseconds(1500));
  const Revision put = calls().MustPut("a", "1", lease);
  WatchLog log;
  const auto watcher = store_->Watch("", put + 1, log.callback());
  const auto until = std::chrono::steady_clock::now() + 2 * *ttl;
  while (std::chrono::steady_clock::now() < until) {
    const auto told = log.NextWithin(*ttl / 5);
    EXPECT_FALSE(told.has_value()) << Text(*told);
    const auto kept = calls().KeepAlive(lease);
    ASSERT_TRUE(kept.ok()) << kept.status();
    EXPECT_EQ(*kept, *ttl);
  }
  EXPECT_EQ(Text(log.Next()), absl::StrCat(put + 1, ": -a"));
}

TEST_P(CoordinationTest, ARevokedLeaseTakesItsRecordsAtOnceAndIsNotGivenAgain) {
  const LeaseId lease = calls().MustGrant(kMaxLeaseTtl), other = calls().MustGrant(kMaxLeaseTtl);
  EXPECT_NE(lease, other);
  const Revision put = calls().MustCommit(
      {.changes = {{.key = "a", .value = "1", .lease = lease}, {.key = "b", .value = "1", .lease = other}}});
  const auto revoked = calls().Revoke(lease);
  EXPECT_TRUE(revoked.ok() && *revoked) << revoked.status();
  EXPECT_THAT(KeysOf(""), ElementsAre("b"));
  const auto again = calls().Revoke(lease);
  EXPECT_TRUE(again.ok() && !*again) << again.status();
  EXPECT_EQ(calls().MustRead("").revision, put + 1);
  std::set<LeaseId> given = {lease, other};
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(given.insert(calls().MustGrant(kMaxLeaseTtl)).second);
  for (const LeaseId id : given) (void)calls().Revoke(id);
}

TEST_P(CoordinationTest, AStaleConditionComesBeforeALeaseThatIsOver) {
  const LeaseId lease = calls().MustGrant(kMaxLeaseTtl);
  ASSERT_TRUE(calls().Revoke(lease).ok());
  calls().MustPut("a", "1");
  const auto stale =
      calls().Commit({.conditions = {{.key = "a"}}, .changes = {{.key = "a", .value = "2", .lease = lease}}});
  EXPECT_TRUE(stale.ok() && !stale->applied) << stale.status();
  const auto over =
      calls().Commit({.changes = {{.key = "b", .value = "2"}, {.key = "a", .value = "2", .lease = lease}}});
  EXPECT_EQ(over.status().code(), absl::StatusCode::kNotFound) << over.status();
  EXPECT_THAT(KeysOf(""), ElementsAre("a"));
}

TEST_P(CoordinationTest, AWatcherIsToldEveryChangeFromAPastRevisionOnInOrder) {
  const Revision first = calls().MustPut("w/a", "1");
  calls().MustPut("x", "not watched");
  const Revision second = calls().MustCommit(
      {.changes = {{.key = "w/b", .value = "2"}, {.key = "x"}, {.key = "w/a", .value = "2"}}});
  const Revision third = calls().MustDelete("w/a");
  WatchLog log, late, future;
  const auto watcher = store_->Watch("w/", first, log.callback());
  const auto late_watcher = store_->Watch("w/", third, late.callback());
  const auto future_watcher = store_->Watch("w/", third + 2, future.callback());
  const Revision fourth = calls().MustPut("w/c", "3"), fifth = calls().MustPut("w/c", "4");
  const std::string a = absl::StrCat(first, ": w/a=1"), b = absl::StrCat(second, ": w/a=2 w/b=2"),
                    c = absl::StrCat(third, ": -w/a"), d = absl::StrCat(fourth, ": w/c=3"),
                    e = absl::StrCat(fifth, ": w/c=4");
  for (const std::string& text : {a, b, c, d, e}) EXPECT_EQ(Text(log.Next()), text);
  for (const std::string& text : {c, d, e}) EXPECT_EQ(Text(late.Next()), text);
  EXPECT_EQ(Text(future.Next()), e);
  EXPECT_EQ(log.told(), 5);
}

TEST_P(CoordinationTest, WatchersSeeEveryRevisionOnceWhileManyWrite) {
  constexpr int kWriters = 3, kEach = 40;
  const Revision before = calls().MustPut("w/0", "first");
  WatchLog early;
  const auto early_watcher = store_->Watch("w/", before, early.callback());
  std::vector<std::thread> writers;
  for (int w = 0; w < kWriters; ++w) {
    writers.emplace_back([&, w] {
      for (int i = 0; i < kEach; ++i) calls().MustPut(absl::StrCat("w/", w), absl::StrCat(i));
    });
  }
  WatchLog amid;
  const auto amid_watcher = store_->Watch("w/", before, amid.callback());
  for (std::thread& writer : writers) writer.join();
  for (WatchLog* log : {&early, &amid}) {
    std::map<std::string, int> next;
    for (int i = 0; i <= kWriters * kEach; ++i) {
      const auto told = log->Next();
      ASSERT_TRUE(told.ok()) << told.status();
      ASSERT_EQ(told->revision, before + i);
      ASSERT_EQ(told->put.size(), 1u);
      if (i == 0) continue;
      ASSERT_EQ(told->put[0].value, absl::StrCat(next[told->put[0].key]++));
    }
  }
}

TEST_P(CoordinationTest, ManyWhoCompareAndSetLoseNoStep) {
  constexpr int kThreads = 4, kEach = 15;
  calls().MustPut("counter", "0");
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kEach;) {
        const Record was = calls().MustRead("counter").records.at(0);
        int value = 0;
        ASSERT_TRUE(absl::SimpleAtoi(was.value, &value));
        const auto set = calls().Commit({.conditions = {{.key = "counter", .changed = was.changed}},
                                         .changes = {{.key = "counter", .value = absl::StrCat(value + 1)}}});
        ASSERT_TRUE(set.ok()) << set.status();
        if (set->applied) ++i;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(calls().MustRead("counter").records.at(0).value, absl::StrCat(kThreads * kEach));
}

TEST_P(CoordinationTest, AWatcherThatIsGoneIsToldNothing) {
  const Revision put = calls().MustPut("a", "1");
  WatchLog gone, stays;
  auto watcher = store_->Watch("", put, gone.callback());
  EXPECT_EQ(Text(gone.Next()), absl::StrCat(put, ": a=1"));
  watcher.reset();
  const auto other = store_->Watch("", put + 1, stays.callback());
  calls().MustPut("a", "2");
  EXPECT_EQ(Text(stays.Next()), absl::StrCat(put + 1, ": a=2"));
  EXPECT_EQ(gone.told(), 1);
}

TEST_P(CoordinationTest, AWatcherMayGoInItsOwnCallback) {
  std::unique_ptr<CoordinationStore::Watcher> watcher;
  std::mutex mutex;  // of `watcher`
  std::atomic<int> told = 0;
  {
    const std::lock_guard lock(mutex);
    watcher = store_->Watch("", calls().MustRead("").revision + 1, [&](absl::StatusOr<Changes>) {
      const std::lock_guard lock(mutex);
      ++told;
      watcher.reset();
    });
  }
  WatchLog stays;
  const auto other = store_->Watch("", calls().MustRead("").revision + 1, stays.callback());
  calls().MustPut("a", "1");
  calls().MustPut("a", "2");
  (void)stays.Next();
  (void)stays.Next();
  // Both changes have been told to whoever still watched, or will be before this one.
  WatchLog last;
  const auto later = store_->Watch("", calls().MustRead("").revision + 1, last.callback());
  calls().MustPut("a", "3");
  (void)last.Next();
  EXPECT_LE(told, 1);
}

TEST_P(CoordinationTest, ACallbackMayCallTheStore) {
  const auto last = testing::Told<Records>([&](auto done) {
    store_->Commit({.changes = {{.key = "a", .value = "1"}}}, [this, done](absl::StatusOr<Committed> first) {
      ASSERT_TRUE(first.ok()) << first.status();
      store_->Commit(
          {.conditions = {{.key = "a", .changed = first->revision}}, .changes = {{.key = "b", .value = "2"}}},
          [this, done](const absl::StatusOr<Committed>&) { store_->Read("", done); });
    });
  });
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(last->records.size(), 2u);
}

TEST_P(CoordinationTest, EveryCallbackComesOnce) {
  constexpr int kCalls = 300;
  std::mutex mutex;
  std::condition_variable all;
  std::vector<int> told(kCalls);
  int count = 0;
  for (int i = 0; i < kCalls; ++i) {
    store_->Commit({.changes = {{.key = absl::StrCat(i % 7), .value = absl::StrCat(i)}}},
                   [&, i](const absl::StatusOr<Committed>& committed) {
                     EXPECT_TRUE(committed.ok()) << committed.status();
                     const std::lock_guard lock(mutex);
                     ++told[static_cast<size_t>(i)];
                     if (++count == kCalls) all.notify_one();
                   });
  }
  std::unique_lock lock(mutex);
  ASSERT_TRUE(all.wait_for(lock, kPatience, [&] { return count >= kCalls; }));
  lock.unlock();
  store_ = nullptr;
  EXPECT_THAT(told, ::testing::Each(Eq(1)));
}

TEST_P(CoordinationTest, CallsUnderWayEndWhenTheStoreGoes) {
  constexpr size_t kCalls = 100;
  EXPECT_TRUE(calls().Read("").ok());  // it is connected
  std::vector<std::atomic<int>> told(2 * kCalls);
  WatchLog log;
  auto watcher = store_->Watch("", 1, log.callback());
  CoordinationStore* const store = store_.get();
  for (size_t i = 0; i < kCalls; ++i) {
    store_->Commit({.changes = {{.key = "a", .value = absl::StrCat(i)}}},
                   [&told, i, store](const absl::StatusOr<Committed>& committed) {
                     ++told[i];
                     if (committed.ok()) return;
                     EXPECT_EQ(committed.status().code(), absl::StatusCode::kCancelled) << committed.status();
                     // Of a store that goes, too, every call is answered.
                     store->Read("", [&told, i](const absl::StatusOr<Records>& read) {
                       EXPECT_EQ(read.status().code(), absl::StatusCode::kCancelled) << read.status();
                       ++told[kCalls + i];
                     });
                   });
  }
  watcher.reset();
  store_ = nullptr;
  const int watched = log.told();
  for (size_t i = 0; i < kCalls; ++i) EXPECT_EQ(told[i], 1) << i;
  for (size_t i = kCalls; i < 2 * kCalls; ++i) EXPECT_LE(told[i], 1) << i;
  EXPECT_EQ(log.told(), watched);
}

TEST_P(CoordinationTest, TooManyCallsAtOnceAreRefused) {
  const auto small = Opened({.max_calls = 2, .name = "small"});
  ASSERT_NE(small, nullptr);
  // A callback that waits, which it must not, keeps the store busy.
  std::promise<void> begun, go_on;
  small->Read("", [&](const absl::StatusOr<Records>&) {
    begun.set_value();
    go_on.get_future().wait();
  });
  begun.get_future().wait();
  std::promise<void> second;
  small->Read("", [](const absl::StatusOr<Records>& read) { EXPECT_TRUE(read.ok()) << read.status(); });
  small->Read("", [&](const absl::StatusOr<Records>&) { second.set_value(); });
  absl::Status refused;
  small->Read("", [&](const absl::StatusOr<Records>& read) { refused = read.status(); });
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  go_on.set_value();
  second.get_future().wait();
  EXPECT_TRUE(StoreCalls(*small).Read("").ok());
}

std::string NameOf(Kind kind) {
  if (kind == Kind::kEmbedded) return "Embedded";
  return kind == Kind::kEtcdOfOne ? "EtcdOfOne" : "EtcdOfThree";
}

INSTANTIATE_TEST_SUITE_P(Stores, CoordinationTest,
                         ::testing::Values(Kind::kEmbedded, Kind::kEtcdOfOne, Kind::kEtcdOfThree),
                         [](const auto& info) { return NameOf(info.param); });

}  // namespace
}  // namespace omni
