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
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using testing::FakeStore;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using testing::Time;

class ClusterStateTest : public testing::ClusterStateFixture {};

TEST_F(ClusterStateTest, TheFirstCoordinatorFoundsTheCluster) {
  Lead();
  EXPECT_FALSE(state_->ready());
  Run();
  EXPECT_TRUE(state_->ready());
  const auto stored = Stored();
  EXPECT_EQ(*ParseClusterRecord(stored.at(kClusterKey)), options_.cluster);
  EXPECT_THAT(Owners(), ElementsAre("self", "self", "self", "self"));
  ASSERT_TRUE(world_->published.has_value());
  EXPECT_EQ(world_->published->regions.size(), 4u);
  EXPECT_EQ(world_->published->leader.value, "self");
  EXPECT_EQ(world_->published->nodes.size(), 1u);
  EXPECT_TRUE(world_->published->nodes[0].self);
  for (const RegionView& region : world_->published->regions) EXPECT_GT(region.epoch, 0u);
}

TEST_F(ClusterStateTest, OnlyTheClustersOwnRecordsAreRead) {
  Start();
  EXPECT_THAT(store_.reads, Each(kClusterPrefix));
  EXPECT_THAT(store_.reads, Not(IsEmpty()));
  for (const auto& [key, value] : Stored()) EXPECT_THAT(key, StartsWith(kClusterPrefix));
}

TEST_F(ClusterStateTest, AClusterOfMoreRegionsThanATransactionHoldsIsFounded) {
  SetRegions(1000, 2000);
  Start();
  EXPECT_EQ(OwnedBy("self"), 1000);
}

TEST_F(ClusterStateTest, ANodeThatJoinsIsRecordedThenConnectedWith) {
  Start();
  bool stood = false;
  state_->Join({"a"}, {"a:1", 10, false}, [&](absl::Status s) {
    EXPECT_TRUE(s.ok()) << s;
    stood = Stored().contains(NodeKey({"a"}));
  });
  EXPECT_THAT(world_->connected, IsEmpty());
  Run();
  EXPECT_TRUE(stood);
  EXPECT_THAT(world_->connected, ElementsAre(NodeId{"a"}));
  EXPECT_EQ(*ParseNodeRecord(Stored().at(NodeKey({"a"}))), (NodeRecord{"a:1", 10, false}));
  // The same again changes nothing; another address does.
  const int64_t commits = counters_.commits.Get();
  Join("a", 10);
  EXPECT_EQ(counters_.commits.Get(), commits);
  EXPECT_TRUE(Answer([&](auto done) { state_->Join({"a"}, {"moved:2", 10, false}, done); }).ok());
  EXPECT_EQ(world_->log.back().substr(0, 7), "publish");
  EXPECT_THAT(world_->log, ::testing::Contains("connect a moved:2"));
}

TEST_F(ClusterStateTest, ANodeIsToldBeforeTheLinksGoByIt) {
  Start();
  Join("a", 10);
  Up("a");
  world_->log.clear();
  Settle();
  Revision told = 0, published = 0;
  for (const std::string& line : world_->log) {
    if (line.starts_with("assign a ")) told = std::stoll(line.substr(9));
    if (!line.starts_with("publish ")) continue;
    published = std::stoll(line.substr(8));
    EXPECT_EQ(told, published);
  }
  EXPECT_GT(published, 0);
  // And what it was told is what is published.
  const AssignFrame& assigned = *nodes_.nodes[{"a"}].assigned;
  ASSERT_EQ(assigned.regions.size(), 2u);
  for (const AssignFrame::Region& region : assigned.regions) {
    const RegionView& view = world_->published->regions[region.region.index()];
    EXPECT_EQ(view.record.owner.value, "a");
    EXPECT_EQ(view.epoch, region.epoch);
    EXPECT_EQ(region.role, HoldingRole::kOwner);
  }
  EXPECT_THAT(assigned.sources, ElementsAre("self:1"));
}

TEST_F(ClusterStateTest, ANodeThatIsDownForLongIsReplacedAndOneThatComesBackSoonIsNot) {
  Start();
  Join("a", 10);
  Up("a");
  Settle();
  ASSERT_EQ(OwnedBy("a"), 2);
  Down("a");
  Tick(options_.gone - 1ms);
  EXPECT_EQ(OwnedBy("a"), 2);
  Up("a");
  Tick(1h);
  EXPECT_EQ(OwnedBy("a"), 2);
  EXPECT_EQ(counters_.failovers.Get(), 0);
  Down("a");
  Tick(options_.gone);
  EXPECT_EQ(OwnedBy("a"), 0);
  EXPECT_EQ(OwnedBy("self"), 4);
  EXPECT_EQ(counters_.failovers.Get(), 2);
}

TEST_F(ClusterStateTest, EveryStepOfAMigrationIsRecorded) {
  Start();
  Join("a", 10);
  nodes_.nodes[{"a"}].running = true;
  state_->OnUp({"a"}, {}, now_);
  Run();
  int targets = 0;
  for (int32_t r = 0; r < 4; ++r) {
    if (StoredRegion(r).target.value.empty()) continue;
    ++targets;
    EXPECT_EQ(StoredRegion(r), (RegionRecord{{"self"}, {}, {"a"}, {}}));
  }
  EXPECT_EQ(targets, 2);
  const AssignFrame assigned = *nodes_.nodes[{"a"}].assigned;
  ASSERT_EQ(assigned.regions.size(), 2u);
  EXPECT_EQ(assigned.regions[0].role, HoldingRole::kTarget);
  // One of the two is there.
  const RegionId first = assigned.regions[0].region;
  state_->OnHoldings({"a"}, {assigned.revision, {first}, 1, 1, 1, ""});
  Run();
  EXPECT_EQ(StoredRegion(first.value), (RegionRecord{{"a"}, {}, {}, {}}));
  EXPECT_EQ(counters_.migrations.Get(), 1);
  EXPECT_EQ(OwnedBy("a"), 1);
}

// A migration, whose coordinator is replaced after so many steps of its thread and its store, ends as if
// nothing had happened.
TEST_F(ClusterStateTest, WhatCannotBeAskedForIsRefused) {
  Start();
  Join("a", 10);
  const auto code = [&](auto ask) { return Answer(ask).code(); };
  using absl::StatusCode;
  EXPECT_EQ(code([&](auto d) { state_->Join({"self"}, {"x:1", 1, false}, d); }), StatusCode::kAlreadyExists);
  EXPECT_EQ(code([&](auto d) { state_->Place(RegionId(4), {"a"}, d); }), StatusCode::kNotFound);
  EXPECT_EQ(code([&](auto d) { state_->Place(RegionId(-1), {"a"}, d); }), StatusCode::kNotFound);
  EXPECT_EQ(code([&](auto d) { state_->Place(RegionId(1), {"nobody"}, d); }), StatusCode::kNotFound);
  EXPECT_EQ(code([&](auto d) { state_->Drain({"nobody"}, false, d); }), StatusCode::kNotFound);
  EXPECT_EQ(code([&](auto d) { state_->Drain({"self"}, false, d); }), StatusCode::kNotFound);
  EXPECT_THAT(std::string(Answer([&](auto d) { state_->Place(RegionId(4), {"a"}, d); }).message()),
              HasSubstr("0 to 3"));
}

TEST_F(ClusterStateTest, ARegionIsPlacedByHandAndLetGoOf) {
  SetRegions(4, 4);
  Start();
  Join("a", 10);
  Up("a");
  Settle();
  EXPECT_EQ(OwnedBy("a"), 0);
  EXPECT_TRUE(Answer([&](auto done) { state_->Place(RegionId(2), {"a"}, done); }).ok());
  EXPECT_EQ(StoredRegion(2).pinned.value, "a");
  Settle();
  EXPECT_THAT(Owners(), ElementsAre("self", "self", "a", "self"));
  EXPECT_TRUE(Answer([&](auto done) { state_->Place(RegionId(2), {"self"}, done); }).ok());
  Settle();
  EXPECT_EQ(OwnedBy("self"), 4);
  EXPECT_TRUE(Answer([&](auto done) { state_->Place(RegionId(2), {}, done); }).ok());
  EXPECT_EQ(StoredRegion(2).pinned.value, "");
}

TEST_F(ClusterStateTest, ANodeIsDrainedAndTakesPartAgain) {
  options_.placement.hysteresis = 100;
  Start();
  Join("a", 10);
  Join("b", 10);
  Up("a");
  Up("b");
  Settle();
  ASSERT_EQ(OwnedBy("a"), 2);
  EXPECT_TRUE(Answer([&](auto done) { state_->Drain({"a"}, false, done); }).ok());
  Settle();
  EXPECT_EQ(OwnedBy("a"), 0);
  EXPECT_EQ(OwnedBy("b"), 2);
  EXPECT_THAT(nodes_.nodes[{"a"}].holds, IsEmpty());
  // It joins anew, as after a restart, and is drained still.
  Join("a", 12);
  EXPECT_TRUE(ParseNodeRecord(Stored().at(NodeKey({"a"})))->draining);
  EXPECT_TRUE(Answer([&](auto done) { state_->Drain({"a"}, true, done); }).ok());
  EXPECT_FALSE(ParseNodeRecord(Stored().at(NodeKey({"a"})))->draining);
  Settle();
  EXPECT_EQ(OwnedBy("a"), 0);
  absl::StatusOr<int> moves = -1;
  state_->Rebalance([&](absl::StatusOr<int> m) { moves = m; });
  EXPECT_EQ(moves.value_or(-1), 1);
  Settle();
  EXPECT_EQ(OwnedBy("a"), 1);
}

TEST_F(ClusterStateTest, AMoveWhoseTargetGoesIsCountedAsCalledOff) {
  Start();
  Join("a", 12);
  Up("a");
  ASSERT_EQ(StoredRegion(0).target.value, "a") << "it does not fit the coordinator";
  Down("a");
  Tick(options_.gone);
  EXPECT_EQ(StoredRegion(0).target.value, "");
  EXPECT_GT(counters_.migrations_cancelled.Get(), 0);
  EXPECT_EQ(counters_.migrations.Get(), 0);
}

TEST_F(ClusterStateTest, WhoLeadsNextKnowsWhatIsAskedMost) {
  SetRegions(8, 2);
  Start();
  world_->requests = {0, 0, 0, 900, 0, 800, 0, 0};
  for (int i = 0; i < 2 * options_.record_loads; ++i) {
    for (int64_t& r : world_->requests) r += r > 0 ? 1000 : 1;
    Tick(options_.weigh);
  }
  ASSERT_TRUE(Stored().contains(kLoadsKey));
  EXPECT_THAT(world_->log, Not(Contains(absl::StrCat("publish ", store_.state().contents().revision))))
      << "nodes hear nothing of it";
  Lead("other");
  Run();
  Join("a", 10);
  Up("a");
  Settle();
  EXPECT_EQ(StoredRegion(3).owner.value, "other");
  EXPECT_EQ(StoredRegion(5).owner.value, "other");
  EXPECT_EQ(OwnedBy("other"), 2);
}

TEST_F(ClusterStateTest, LoadsAreRecordedNowAndThenAndOnlyIfSomethingWasAsked) {
  Start();
  for (int i = 0; i < 50; ++i) Tick(options_.weigh);
  EXPECT_FALSE(Stored().contains(kLoadsKey));
  const int before = store_.calls;
  world_->requests = {5, 0, 0, 0};
  for (int i = 0; i < 50; ++i) Tick(options_.weigh);
  EXPECT_EQ(store_.calls - before, 1);
  // A swarm begun afresh counts from none, and what it counts is no less.
  world_->requests = {0, 3, 0, 0};
  for (int i = 0; i < 50; ++i) Tick(options_.weigh);
  EXPECT_EQ(store_.calls - before, 2);
  const auto loads = ParseLoadsRecord(Stored().at(kLoadsKey));
  ASSERT_TRUE(loads.ok());
  EXPECT_GT((*loads)[1], 0.25);
}

TEST_F(ClusterStateTest, LoadsThatCannotBeReadOrAreOfOtherRegionsCountAsNone) {
  for (const char* text : {"nonsense", "{\"shares\":[1]}", "{\"shares\":[-1,0,0,0]}"}) {
    Transaction transaction;
    transaction.changes.push_back({kLoadsKey, text});
    ASSERT_TRUE(store_.state().Commit(transaction, now_)->applied);
    Start();
  }
}

TEST_F(ClusterStateTest, ANodeIsForgottenOnceItIsAwayAndOwnsNothing) {
  Start();
  Join("a", 12);
  Join("b", 12);
  Up("a");
  Up("b");
  EXPECT_TRUE(Answer([&](auto done) { state_->Place(RegionId(3), {"a"}, done); }).ok());
  Settle();
  ASSERT_GT(OwnedBy("a"), 0);
  const auto forget = [&](const char* node) {
    return Answer([&](auto done) { state_->Forget({node}, done); });
  };
  EXPECT_EQ(forget("nobody").code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(forget("self").message()), HasSubstr("is the coordinator itself"));
  EXPECT_THAT(std::string(forget("a").message()), HasSubstr("is connected"));
  Down("a");
  const absl::Status owns = forget("a");
  EXPECT_EQ(owns.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(owns.message()), HasSubstr("still owns region"));
  EXPECT_TRUE(Stored().contains(NodeKey({"a"})));
  Tick(options_.gone);
  Settle();
  ASSERT_EQ(OwnedBy("a"), 0);
  EXPECT_EQ(StoredRegion(3).pinned.value, "a") << "it may come back";
  world_->log.clear();
  EXPECT_TRUE(forget("a").ok());
  EXPECT_FALSE(Stored().contains(NodeKey({"a"})));
  EXPECT_EQ(StoredRegion(3).pinned.value, "");
  EXPECT_THAT(world_->log, Contains("disconnect a"));
  for (const NodeView& node : world_->shown.nodes) EXPECT_NE(node.id.value, "a");
  EXPECT_EQ(forget("a").code(), absl::StatusCode::kNotFound);
  // What it still says is not heard, and if it joins it is a new node.
  state_->OnUp({"a"}, {}, now_);
  state_->OnHoldings({"a"}, {0, {RegionId(0)}, 0, 0, 0, ""});
  Settle();
  world_->log.clear();
  Join("a", 12);
  EXPECT_THAT(world_->log, Contains("connect a a:1"));
  Up("a");
  Settle();
}

TEST_F(ClusterStateTest, WhoReadsThatANodeWasForgottenLetsGoOfIt) {
  Start();
  Join("a", 12);
  Transaction forgotten;
  forgotten.changes.push_back({NodeKey({"a"}), std::nullopt});
  ASSERT_TRUE(store_.state().Commit(forgotten, now_)->applied);
  // Its next write is refused, so it reads.
  EXPECT_TRUE(Answer([&](auto done) { state_->Drain({"a"}, false, done); }).code() ==
              absl::StatusCode::kNotFound);
  EXPECT_THAT(world_->log, Contains("disconnect a"));
}

TEST_F(ClusterStateTest, TheClustersIdIsThatOfItsRecords) {
  options_.cluster.id = "first";
  Start();
  EXPECT_EQ(ParseClusterRecord(Stored().at(kClusterKey))->id, "first");
  options_.cluster.id = "drawn at the next start";
  Lead("other");
  Run();
  ASSERT_TRUE(state_->ready());
  EXPECT_EQ(state_->cluster().id, "first");
  EXPECT_EQ(world_->shown.cluster.id, "first");
}

// Whoever leads after an upgrade leaves the records to be led by the program before it.
TEST_F(ClusterStateTest, TheClustersProtocolIsThatOfItsRecordsIfItIsSpoken) {
  Start();
  EXPECT_EQ(ParseClusterRecord(Stored().at(kClusterKey))->protocol, kClusterProtocols.oldest);
  for (const uint32_t protocol : {2u, 1u, 3u, 0u}) {
    ClusterRecord record = *ParseClusterRecord(Stored().at(kClusterKey));
    record.protocol = protocol;
    Transaction transaction;
    transaction.changes.push_back({kClusterKey, ToJson(record)});
    ASSERT_TRUE(store_.state().Commit(transaction, now_)->applied);
    Lead(absl::StrCat("leader of ", protocol));
    Run();
    EXPECT_EQ(state_->ready(), kClusterProtocols.Has(protocol)) << protocol;
    EXPECT_EQ(ParseClusterRecord(Stored().at(kClusterKey))->protocol, protocol);
    if (!kClusterProtocols.Has(protocol)) {
      ASSERT_TRUE(world_->deposed.has_value());
      EXPECT_THAT(std::string(world_->deposed->message()),
                  HasSubstr(absl::StrCat("protocol ", protocol, ", and")));
    }
  }
}

TEST_F(ClusterStateTest, ANodesProtocolAndProgramAreSeenAsLongAsItIsUp) {
  Start();
  Join("a", 12);
  state_->OnUp({"a"}, WelcomeFrame{2, {"a"}, 12, 1, "1.2.3"}, now_);
  EXPECT_EQ(world_->shown.nodes[1].protocol, 2u);
  EXPECT_EQ(world_->shown.nodes[1].program, "1.2.3");
  state_->OnDown({"a"}, absl::UnavailableError("gone"), now_);
  EXPECT_EQ(world_->shown.nodes[1].protocol, 0u);
  EXPECT_EQ(world_->shown.nodes[1].program, "");
}

TEST_F(ClusterStateTest, TheBusiestRegionsComeToTheCoordinator) {
  SetRegions(8, 2);
  Start();
  world_->requests = {0, 0, 0, 900, 0, 800, 0, 0};
  for (int i = 0; i < 10; ++i) {
    for (int64_t& r : world_->requests) r += r > 0 ? 1000 : 1;
    Tick(options_.weigh);
  }
  Join("a", 10);
  Up("a");
  Settle();
  EXPECT_EQ(StoredRegion(3).owner.value, "self");
  EXPECT_EQ(StoredRegion(5).owner.value, "self");
  EXPECT_EQ(OwnedBy("self"), 2);
}

}  // namespace
}  // namespace omni
