// A coordinator whose store fails, that is replaced, or that must not lead.
#include "cluster/cluster_state.h"

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cluster/cluster_state_fixture.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using testing::FakeStore;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Time;

class ClusterStateFaultsTest : public testing::ClusterStateFixture {};

TEST_F(ClusterStateFaultsTest, ASecondCoordinatorReadsTheRecordsAndGoesOn) {
  Start();
  Join("a", 10);
  Up("a");
  Settle();
  ASSERT_EQ(OwnedBy("a"), 2);
  const auto before = Stored();
  const ClusterView view = *world_->published;
  Lead("other");
  Run();
  EXPECT_TRUE(state_->ready());
  EXPECT_THAT(world_->connected, ElementsAre(NodeId{"a"}));
  ASSERT_TRUE(world_->published.has_value());
  // Whoever led before owns what it owned until it is known to be gone.
  for (size_t r = 0; r < 4; ++r) {
    const std::string& owner = view.regions[r].record.owner.value;
    EXPECT_TRUE(owner != "a" || world_->published->regions[r].record.owner.value == "a");
  }
  Up("a");
  Settle();
  EXPECT_EQ(OwnedBy("self"), 0);
  EXPECT_EQ(OwnedBy("a"), 2);
  EXPECT_EQ(OwnedBy("other"), 2);
  EXPECT_EQ(Stored().at(kClusterKey), before.at(kClusterKey));
}

TEST_F(ClusterStateFaultsTest, ACoordinatorOfAnotherModelOrTorusDoesNotLead) {
  Start();
  SetRegions(5, 2);
  Lead("other");
  Run();
  ASSERT_TRUE(world_->deposed.has_value());
  EXPECT_EQ(world_->deposed->code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(world_->deposed->message()), HasSubstr("in 4 regions"));
  EXPECT_FALSE(world_->published.has_value());
}

TEST_F(ClusterStateFaultsTest, RecordsThatCannotBeReadEndTheLead) {
  Start();
  Transaction transaction;
  transaction.changes.push_back({RegionKey(RegionId(1)), "no json"});
  ASSERT_TRUE(store_.state().Commit(transaction, now_).ok());
  Lead();
  Run();
  ASSERT_TRUE(world_->deposed.has_value());
  EXPECT_EQ(world_->deposed->code(), absl::StatusCode::kDataLoss);
}

TEST_F(ClusterStateFaultsTest, NothingIsToldBeforeItStandsInTheStore) {
  Start();
  Join("a", 10);
  Join("b", 10);
  int acts = 0;
  world_->on_act = [&](uint64_t revision) {
    ++acts;
    EXPECT_LE(revision, static_cast<uint64_t>(store_.state().contents().revision));
    // Nor is anybody told of a record that is not there.
    for (size_t r = 0; r < world_->shown.regions.size(); ++r) {
      const auto& record = store_.state().contents().records.at(RegionKey(RegionId(static_cast<int32_t>(r))));
      EXPECT_LE(world_->shown.regions[r].epoch, static_cast<uint64_t>(record.changed));
    }
  };
  testing::Random random(3);
  store_.fate = [&] {
    const int64_t f = random.Below(4);
    return f == 0   ? FakeStore::Fate::kNeverArrives
           : f == 1 ? FakeStore::Fate::kUnheard
                    : FakeStore::Fate::kDone;
  };
  Up("a");
  Up("b");
  for (int i = 0; i < 300; ++i) {
    Fetch();
    Tick(100ms);
    if (i == 100) Down("a");
    if (i == 250) Up("a");
  }
  EXPECT_GT(acts, 10);
  store_.fate = nullptr;
  Tick(1s);
  Settle();
  EXPECT_EQ(OwnedBy("self"), 2);
  EXPECT_EQ(world_->published->revision, store_.state().contents().revision);
  for (size_t r = 0; r < 4; ++r)
    EXPECT_EQ(world_->published->regions[r].record, StoredRegion(static_cast<int32_t>(r)));
}

TEST_F(ClusterStateFaultsTest, ACoordinatorWhoseLeaderRecordHasChangedIsDeposedByItsNextCommit) {
  Start();
  (void)Elect("other");
  const absl::Status joined = Answer([&](auto done) { state_->Join({"a"}, {"a:1", 1, false}, done); });
  ASSERT_TRUE(world_->deposed.has_value());
  EXPECT_THAT(std::string(world_->deposed->message()), HasSubstr("another coordinator leads"));
  EXPECT_EQ(joined.code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(Stored().contains(NodeKey({"a"})));
  EXPECT_THAT(world_->connected, IsEmpty());
  EXPECT_EQ(counters_.refused_commits.Get(), 1);
  // It does nothing more.
  const int calls = store_.calls;
  Tick(1h);
  EXPECT_EQ(store_.calls, calls);
}

// A call that is never answered would keep its server from ending.
TEST_F(ClusterStateFaultsTest, WhoeverWaitsForARecordIsToldWhenTheCoordinatorGoes) {
  Start();
  store_.fate = [] { return FakeStore::Fate::kNeverArrives; };
  std::vector<absl::StatusCode> told;
  for (int i = 0; i < 3; ++i)
    state_->Join({"a"}, {"a:1", 1, false}, [&](const absl::Status& s) { told.push_back(s.code()); });
  EXPECT_THAT(told, IsEmpty());
  state_ = nullptr;
  EXPECT_THAT(told, ::testing::Each(absl::StatusCode::kUnavailable));
  EXPECT_EQ(told.size(), 3u);
}

TEST_F(ClusterStateFaultsTest, AStoreThatCannotBeReachedIsReadAgain) {
  store_.fate = [] { return FakeStore::Fate::kNeverArrives; };
  Lead();
  Run();
  EXPECT_FALSE(state_->ready());
  Tick(1s);
  EXPECT_FALSE(state_->ready());
  store_.fate = nullptr;
  Tick(1s);
  EXPECT_TRUE(state_->ready());
  EXPECT_FALSE(world_->deposed.has_value());
}

TEST_F(ClusterStateFaultsTest, AFoundingThatFailsIsTriedAgainInTime) {
  int calls = 0;
  store_.fate = [&] { return ++calls % 2 == 0 ? FakeStore::Fate::kNeverArrives : FakeStore::Fate::kDone; };
  Lead();
  Run(100);
  EXPECT_FALSE(state_->ready());
  EXPECT_LE(calls, 4) << "a store that cannot be reached is not asked without end";
  store_.fate = nullptr;
  Tick(1s);
  EXPECT_TRUE(state_->ready());
}

TEST_F(ClusterStateFaultsTest, ACommitThatNobodyHeardOfIsReadAgainAndCountsOnce) {
  Start();
  Join("b", 0);
  int unheard = 0;
  store_.fate = [&] { return unheard++ == 0 ? FakeStore::Fate::kUnheard : FakeStore::Fate::kDone; };
  bool done = false;
  state_->Join({"a"}, {"a:1", 10, false}, [&](absl::Status s) { done = s.ok(); });
  Run();
  EXPECT_FALSE(done);
  EXPECT_TRUE(Stored().contains(NodeKey({"a"})));
  Tick(1s);
  EXPECT_TRUE(done);
  EXPECT_THAT(world_->connected, ElementsAre(NodeId{"b"}, NodeId{"a"})) << "it is a node like any other";
  Up("a");
  Settle();
  EXPECT_EQ(OwnedBy("a"), 2);
}

TEST_F(ClusterStateFaultsTest, WhatTheStoreRefusesHoldsNobodyUp) {
  Start();
  const absl::Status joined = Answer([&](auto done) {
    state_->Join({"a"}, {std::string(kMaxTransactionBytes, 'x'), 1, false}, done);
  });
  EXPECT_EQ(joined.code(), absl::StatusCode::kInvalidArgument);
  Join("b", 10);
  EXPECT_TRUE(Stored().contains(NodeKey({"b"})));
}

TEST_F(ClusterStateFaultsTest, ACoordinatorThatIsReplacedAtAnyStepChangesNothingOfTheEnd) {
  std::optional<std::vector<std::string>> end;
  int moments = 0;
  for (int steps = 0; steps < 200; ++steps) {
    SCOPED_TRACE(absl::StrCat("after ", steps, " steps"));
    now_ = Time(1h);
    // Everything anew.
    state_ = nullptr;
    store_.~FakeStore();
    new (&store_) FakeStore(now_);
    nodes_.nodes.clear();
    SetRegions(6, 2);
    Start();
    Join("a", 10);
    Join("b", 10);
    nodes_.nodes[{"a"}].running = nodes_.nodes[{"b"}].running = true;
    state_->OnUp({"a"}, {}, now_);
    state_->OnUp({"b"}, {}, now_);
    int left = steps;
    bool over = false;
    while (left > 0 && !over) {
      if (Step()) {
        --left;
      } else {
        over = !Fetch();
      }
    }
    if (!over) {
      ++moments;
      // Its calls that are on the way arrive nevertheless, after the next one's election.
      Lead();
    }
    Run();
    Up("a");
    Up("b");
    Settle();
    EXPECT_FALSE(world_->deposed.has_value());
    EXPECT_EQ(OwnedBy("self"), 2);
    EXPECT_EQ(OwnedBy("a"), 2);
    EXPECT_EQ(OwnedBy("b"), 2);
    for (int32_t r = 0; r < 6; ++r) EXPECT_EQ(StoredRegion(r).target.value, "");
    if (HasFailure()) return;
    if (over) break;
  }
  EXPECT_GT(moments, 15);
  EXPECT_LT(moments, 200);
}

TEST_F(ClusterStateFaultsTest, ACoordinatorThatHasEndedIsNotToldAnyMore) {
  Lead();
  store_.Arrive();
  state_ = nullptr;
  store_.Run();
  while (!world_->posted.empty()) {
    world_->posted.front()();
    world_->posted.pop_front();
  }
  EXPECT_THAT(world_->log, IsEmpty());
}

TEST_F(ClusterStateFaultsTest, ANodeThatCoordinatesNowIsNotConnectedWith) {
  Start();
  Join("a", 10);
  Up("a");
  Settle();
  Lead("a");
  Run();
  EXPECT_THAT(world_->connected, IsEmpty());
  EXPECT_TRUE(world_->published.has_value());
  Settle();
  // Whoever led before is no node that has joined.
  EXPECT_EQ(OwnedBy("a"), 4);
}

}  // namespace
}  // namespace omni
