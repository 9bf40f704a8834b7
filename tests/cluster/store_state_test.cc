#include "cluster/store_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include <absl/strings/str_cat.h>

#include "engine/base/splitmix.h"
#include "tests/testing/store_calls.h"

namespace omni {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using testing::Text;

using Time = StoreState::Time;

// A disk that does what the test says.
class FakeDisk : public StorePersistence {
 public:
  enum class Fault { kNone, kLost, kWrittenButRefused };

  FakeDisk() = default;
  explicit FakeDisk(StoreContents held) : contents(std::move(held)) {}

  Fault next = Fault::kNone;  // of the next Persist
  bool answers = true;        // to Persisted
  StoreContents contents;

  absl::Status Persist(const StoreEffect& effect) override {
    EXPECT_FALSE(asked_.has_value()) << "an effect before the fate of the last is known";
    EXPECT_EQ(effect.number, contents.number + 1);
    const Fault fault = std::exchange(next, Fault::kNone);
    if (fault != Fault::kLost) contents.Apply(effect);
    if (fault == Fault::kNone) return absl::OkStatus();
    asked_ = effect.number;
    return absl::DataLossError("the disk is on fire");
  }
  absl::StatusOr<bool> Persisted(const StoreEffect& effect) override {
    EXPECT_EQ(asked_, effect.number);
    if (!answers) return absl::UnavailableError("the disk is still on fire");
    asked_.reset();
    return contents.number == effect.number;
  }

 private:
  std::optional<int64_t> asked_;
};

bool operator==(const Record& a, const Record& b) {
  return a.key == b.key && a.value == b.value && a.created == b.created && a.changed == b.changed &&
         a.lease == b.lease;
}

void ExpectSame(const StoreContents& a, const StoreContents& b) {
  EXPECT_EQ(a.number, b.number);
  EXPECT_EQ(a.revision, b.revision);
  EXPECT_EQ(a.last_lease, b.last_lease);
  EXPECT_EQ(a.leases, b.leases);
  ASSERT_EQ(a.records.size(), b.records.size());
  for (const auto& [key, record] : a.records) {
    const auto found = b.records.find(key);
    ASSERT_NE(found, b.records.end()) << key;
    EXPECT_TRUE(record == found->second) << key;
  }
}

class StoreStateTest : public ::testing::Test {
 protected:
  absl::StatusOr<Committed> Put(const std::string& key, const std::string& value, LeaseId lease = 0) {
    return state_.Commit({.changes = {{.key = key, .value = value, .lease = lease}}}, now_);
  }
  // All that a watcher can take now.
  std::vector<std::string> Taken(StoreState::WatchId watch) {
    std::vector<std::string> texts;
    while (true) {
      const auto next = state_.Take(watch);
      if (next.ok() && !next->has_value()) return texts;
      texts.push_back(next.ok() ? Text(**next) : std::string(next.status().message()));
      if (!next.ok()) return texts;
    }
  }
  void Advance(milliseconds by) { now_ += by; }

  Time now_{std::chrono::hours(1)};
  FakeDisk disk_;
  StoreState state_{{}, disk_, {.history_bytes = 1000}, now_};
};

TEST_F(StoreStateTest, WhatCouldNotBeMadeLastingDoesNotCount) {
  ASSERT_TRUE(Put("a", "1").ok());
  const auto watch = state_.Watch("", 2);
  disk_.next = FakeDisk::Fault::kLost;
  const auto lost = Put("a", "2");
  EXPECT_EQ(lost.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(lost.status().message()), HasSubstr("on fire"));
  EXPECT_THAT(Taken(watch), ::testing::IsEmpty());
  const auto read = state_.Read("", now_);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->records.at(0).value, "1");
  EXPECT_EQ(read->revision, 1);
  EXPECT_EQ(Put("a", "3")->revision, 2);
  EXPECT_THAT(Taken(watch), ::testing::ElementsAre("2: a=3"));
}

TEST_F(StoreStateTest, WhatLastsAlthoughItWasRefusedCountsOnceThatIsKnown) {
  const auto watch = state_.Watch("", 1);
  disk_.next = FakeDisk::Fault::kWrittenButRefused;
  disk_.answers = false;
  EXPECT_EQ(Put("a", "1").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Taken(watch), ::testing::IsEmpty());
  // Until then nobody is told anything.
  EXPECT_EQ(state_.Read("", now_).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Put("a", "2").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(state_.GrantLease(milliseconds(5), now_).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(state_.KeepAlive(1, now_).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(state_.RevokeLease(1, now_).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(state_.Settle(now_).code(), absl::StatusCode::kUnavailable);
  disk_.answers = true;
  const auto read = state_.Read("", now_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->records.at(0).value, "1");
  EXPECT_THAT(Taken(watch), ::testing::ElementsAre("1: a=1"));
}

TEST_F(StoreStateTest, LeasesEndAtTheirTimeAndNotBefore) {
  const LeaseId a = *state_.GrantLease(milliseconds(100), now_);
  const LeaseId b = *state_.GrantLease(milliseconds(50), now_);
  ASSERT_TRUE(Put("a", "1", a).ok());
  ASSERT_TRUE(Put("b", "1", b).ok());
  EXPECT_EQ(state_.next_deadline(), now_ + milliseconds(50));
  Advance(milliseconds(49));
  EXPECT_EQ(state_.Read("", now_)->records.size(), 2u);
  Advance(milliseconds(1));
  EXPECT_EQ(state_.KeepAlive(b, now_).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(state_.Read("", now_)->records.at(0).key, "a");
  EXPECT_EQ(*state_.KeepAlive(a, now_), milliseconds(100));
  EXPECT_EQ(state_.next_deadline(), now_ + milliseconds(100));
  Advance(milliseconds(99));
  EXPECT_TRUE(state_.Settle(now_).ok());
  EXPECT_EQ(state_.contents().records.size(), 1u);
  Advance(milliseconds(1));
  EXPECT_TRUE(state_.Settle(now_).ok());
  EXPECT_TRUE(state_.contents().records.empty());
  EXPECT_TRUE(disk_.contents.leases.empty());
  EXPECT_EQ(state_.next_deadline(), std::nullopt);
}

TEST_F(StoreStateTest, ALeaseThatIsOverIsOverAlthoughItsEndCannotBeWritten) {
  const LeaseId lease = *state_.GrantLease(milliseconds(10), now_);
  ASSERT_TRUE(Put("a", "1", lease).ok());
  const auto watch = state_.Watch("", 2);
  Advance(milliseconds(10));
  disk_.next = FakeDisk::Fault::kLost;
  EXPECT_EQ(state_.KeepAlive(lease, now_).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(state_.KeepAlive(lease, now_).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Taken(watch), ::testing::ElementsAre("2: -a"));
}

TEST_F(StoreStateTest, ALeaseWithoutRecordsEndsWithoutARevision) {
  ASSERT_TRUE(Put("a", "1").ok());
  const LeaseId lease = *state_.GrantLease(milliseconds(10), now_);
  EXPECT_TRUE(*state_.RevokeLease(lease, now_));
  EXPECT_EQ(state_.contents().revision, 1);
  EXPECT_EQ(*state_.GrantLease(milliseconds(10), now_), lease + 1);
}

TEST_F(StoreStateTest, ARecordThatWasGivenAnotherLeaseGoesWithThat) {
  const LeaseId a = *state_.GrantLease(milliseconds(10), now_),
                b = *state_.GrantLease(milliseconds(10), now_);
  ASSERT_TRUE(Put("k", "1", a).ok());
  ASSERT_TRUE(Put("k", "2", b).ok());
  ASSERT_TRUE(*state_.RevokeLease(a, now_));
  EXPECT_EQ(state_.Read("", now_)->records.size(), 1u);
  ASSERT_TRUE(state_.Commit({.changes = {{.key = "k"}}}, now_).ok());
  ASSERT_TRUE(Put("k", "3").ok());
  ASSERT_TRUE(*state_.RevokeLease(b, now_));
  EXPECT_EQ(state_.Read("", now_)->records.size(), 1u);
}

TEST_F(StoreStateTest, AWatcherOfWhatIsForgottenIsToldSoAndIsGone) {
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(Put("a", std::string(99, 'x')).ok());  // ten fit
  const auto old = state_.Watch("", 90), known = state_.Watch("", 91);
  const auto refused = state_.Take(old);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kOutOfRange) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("before 91"));
  EXPECT_EQ(state_.Take(old).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Taken(known).size(), 10u);
  // One that took nothing for too long, too.
  for (int i = 0; i < 11; ++i) ASSERT_TRUE(Put("a", std::string(99, 'x')).ok());
  EXPECT_EQ(state_.Take(known).status().code(), absl::StatusCode::kOutOfRange);
}

TEST_F(StoreStateTest, AfterAFreshStartLeasesHaveTheirWholeTimeAndThePastIsUnknown) {
  const LeaseId lease = *state_.GrantLease(milliseconds(100), now_);
  ASSERT_TRUE(Put("a", "1", lease).ok());
  Advance(milliseconds(99));
  StoreState again(disk_.contents, disk_, {}, now_);
  EXPECT_EQ(again.next_deadline(), now_ + milliseconds(100));
  const auto past = again.Watch("", 1), next = again.Watch("", 2);
  EXPECT_EQ(again.Take(past).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(*again.Take(next), std::nullopt);
  Advance(milliseconds(100));
  EXPECT_EQ(again.KeepAlive(lease, now_).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Text(**again.Take(next)), "2: -a");
}

// One seed: calls at random, a disk that fails at random, and fresh starts from what it holds.
void RunAtRandom(uint64_t seed) {
  uint64_t drawn = 0;
  const auto draw = [&](uint64_t below) { return CounterRandom(seed, drawn++) % below; };
  const auto key = [&] { return absl::StrCat("k", draw(5)); };
  FakeDisk disk;
  Time now{};
  auto state = std::make_unique<StoreState>(StoreContents(), disk, StoreState::Options(), now);
  StoreState::WatchId watch = state->Watch("", 1);
  std::map<std::string, std::string> replica;  // made of what the watcher is told
  Revision told = 0, highest = 0;
  std::map<LeaseId, Time> held;  // until when their holders may be sure of them
  const auto follow = [&] {
    while (true) {
      const auto next = state->Take(watch);
      ASSERT_TRUE(next.ok()) << next.status();
      if (!next->has_value()) return;
      EXPECT_EQ((*next)->revision, told + 1) << "every revision is told once";
      told = (*next)->revision;
      for (const Record& record : (*next)->put) replica[record.key] = record.value;
      for (const std::string& gone : (*next)->deleted) EXPECT_EQ(replica.erase(gone), 1u);
    }
  };
  for (int step = 0; step < 200; ++step) {
    if (draw(10) == 0)
      disk.next = draw(2) == 0 ? FakeDisk::Fault::kLost : FakeDisk::Fault::kWrittenButRefused;
    const LeaseId lease = held.empty() ? 0 : std::next(held.begin(), draw(held.size()))->first;
    switch (draw(8)) {
      case 0:
      case 1:
      case 2: {
        const std::string k = key();
        const auto before = state->Read(k, now);
        if (!before.ok()) break;
        const Revision changed = before->records.empty() ? 0 : before->records[0].changed;
        const auto committed = state->Commit(
            {.conditions = {{.key = k, .changed = changed}},
             .changes = {{.key = k, .value = absl::StrCat(step), .lease = draw(2) == 0 ? lease : 0},
                         {.key = k + "x"}}},
            now);
        if (!committed.ok()) break;
        EXPECT_TRUE(committed->applied);
        EXPECT_GT(committed->revision, highest) << "a revision came back";
        highest = committed->revision;
        break;
      }
      case 3:
        (void)state->Commit({.changes = {{.key = key()}}}, now);
        break;
      case 4: {
        const milliseconds ttl(1 + draw(50));
        const auto granted = state->GrantLease(ttl, now);
        if (!granted.ok()) break;
        EXPECT_FALSE(held.contains(*granted)) << "a lease came back";
        held[*granted] = now + ttl;
        break;
      }
      case 5: {
        const auto kept = state->KeepAlive(lease, now);
        if (kept.ok()) held[lease] = now + *kept;
        if (absl::IsNotFound(kept.status()) && lease != 0) {
          EXPECT_GE(now, held[lease]) << "a lease ended too soon";
        }
        break;
      }
      case 6:
        now += milliseconds(draw(20));
        (void)state->Settle(now);
        break;
      case 7:
        if (draw(5) != 0) break;
        follow();
        // A fresh start: what the disk holds, with whatever it was that the old state was not sure of.
        state = std::make_unique<StoreState>(disk.contents, disk, StoreState::Options(), now);
        disk = FakeDisk(disk.contents);
        watch = state->Watch("", disk.contents.revision + 1);
        replica.clear();
        for (const auto& [k, record] : disk.contents.records) replica[k] = record.value;
        told = disk.contents.revision;
        break;
    }
    follow();
  }
  disk.next = FakeDisk::Fault::kNone;
  ASSERT_TRUE(state->Settle(now).ok());
  follow();
  ExpectSame(state->contents(), disk.contents);
  EXPECT_EQ(replica.size(), disk.contents.records.size());
  for (const auto& [k, record] : disk.contents.records) EXPECT_EQ(replica[k], record.value);
  // And the same again from the disk alone.
  now += std::chrono::hours(1);
  StoreState last(disk.contents, disk, {}, now);
  now += std::chrono::hours(1);
  ASSERT_TRUE(last.Settle(now).ok());
  EXPECT_TRUE(last.contents().leases.empty());
  for (const auto& [k, record] : last.contents().records) EXPECT_EQ(record.lease, 0) << k;
}

TEST(StoreStateAtRandom, NothingAcknowledgedIsLostAndNothingComesBack) {
  for (uint64_t seed = 1; seed <= 500 && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RunAtRandom(seed);
  }
}

}  // namespace
}  // namespace omni
