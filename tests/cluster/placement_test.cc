#include "cluster/placement.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/random_model.h"

namespace omni {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const NodeId kSelf{"self"};

// Nodes that fetch what they are to hold in the time of one round, as long as they are up.
class World {
 public:
  explicit World(size_t regions, uint64_t self_bytes) : regions(regions) {
    for (PlacedRegion& region : this->regions) {
      region.record.owner = kSelf;
      region.bytes = 1;
      region.load = 1.0 / static_cast<double>(regions);
    }
    PlacedNode self;
    self.id = kSelf;
    self.self = self.up = true;
    self.offered_bytes = self_bytes;
    self.holds.assign(regions, true);
    nodes.push_back(std::move(self));
  }

  PlacedNode& Add(const std::string& id, uint64_t bytes) {
    PlacedNode node;
    node.id = {id};
    node.up = true;
    node.offered_bytes = bytes;
    node.holds.assign(regions.size(), false);
    nodes.push_back(std::move(node));
    return nodes.back();
  }
  PlacedNode& Node(const std::string& id) {
    return *std::find_if(nodes.begin(), nodes.end(), [&](const PlacedNode& n) { return n.id.value == id; });
  }
  void Fail(const std::string& id) {
    PlacedNode& node = Node(id);
    node.up = false;
    node.gone = true;
    node.holds.assign(regions.size(), false);
  }

  std::vector<RegionChange> Ask() const { return NextChanges(nodes, regions, options); }
  void Apply(const std::vector<RegionChange>& changes) {
    for (const RegionChange& change : changes) {
      EXPECT_NE(change.to, regions[change.region.index()].record) << "a change that changes nothing";
      EXPECT_STRNE(change.why, "");
      regions[change.region.index()].record = change.to;
      failovers += change.failover, migrations += change.migrated, cancelled += change.cancelled;
    }
  }
  void Fetch() {
    for (PlacedNode& node : nodes) {
      if (node.self || !node.up) continue;
      for (size_t r = 0; r < regions.size(); ++r) {
        const RegionRecord& record = regions[r].record;
        node.holds[r] = record.owner == node.id || record.shadow == node.id || record.target == node.id;
      }
    }
  }
  int Targets() const {
    return static_cast<int>(std::count_if(regions.begin(), regions.end(), [](const PlacedRegion& r) {
      return !r.record.target.value.empty();
    }));
  }
  // Rounds until nothing is left to change; no more than `most`.
  int Settle(int most = 1000) {
    for (int round = 0; round < most; ++round) {
      const std::vector<RegionChange> changes = Ask();
      Apply(changes);
      EXPECT_LE(Targets(), options.most_moves);
      const bool quiet = changes.empty() && Targets() == 0;
      Fetch();
      if (quiet && Ask().empty()) return round;
    }
    ADD_FAILURE() << "it never ends";
    return most;
  }
  int Owned(const std::string& id) const {
    return static_cast<int>(std::count_if(regions.begin(), regions.end(),
                                          [&](const PlacedRegion& r) { return r.record.owner.value == id; }));
  }
  // Of owner, shadow and target.
  uint64_t Used(const std::string& id) const {
    uint64_t used = 0;
    for (const PlacedRegion& r : regions) {
      for (const NodeId* n : {&r.record.owner, &r.record.shadow, &r.record.target}) {
        if (n->value == id) used += r.bytes;
      }
    }
    return used;
  }

  std::vector<PlacedNode> nodes;
  std::vector<PlacedRegion> regions;
  PlacementOptions options;
  int failovers = 0, migrations = 0, cancelled = 0;
};

TEST(PlacementTest, EverythingThatFitsStaysWithTheCoordinator) {
  World world(16, 16);
  world.Add("a", 100), world.Add("b", 100);
  EXPECT_THAT(world.Ask(), IsEmpty());
}

TEST(PlacementTest, WithoutNodesTheCoordinatorServesAllOfIt) {
  World world(16, 4);
  EXPECT_THAT(world.Ask(), IsEmpty());
}

TEST(PlacementTest, WhatDoesNotFitIsSpreadEvenlyByWhatNodesOffer) {
  World world(16, 4);
  world.Add("a", 12), world.Add("b", 12);
  world.Settle();
  EXPECT_EQ(world.Owned("self"), 4);
  EXPECT_EQ(world.Owned("a"), 6);
  EXPECT_EQ(world.Owned("b"), 6);
  EXPECT_EQ(world.migrations, 12);

  World uneven(22, 4);
  uneven.Add("a", 30), uneven.Add("b", 15);
  uneven.Settle();
  EXPECT_EQ(uneven.Owned("self"), 4);
  EXPECT_NEAR(uneven.Owned("a"), 12, 1);
  EXPECT_NEAR(uneven.Owned("b"), 6, 1);
}

TEST(PlacementTest, TheBusiestStayWithTheCoordinator) {
  World world(8, 2);
  for (size_t r = 0; r < 8; ++r) world.regions[r].load = r == 3 || r == 5 ? 0.3 : 0.05;
  world.Add("a", 100);
  world.Settle();
  EXPECT_EQ(world.Owned("self"), 2);
  EXPECT_EQ(world.regions[3].record.owner, kSelf);
  EXPECT_EQ(world.regions[5].record.owner, kSelf);
}

TEST(PlacementTest, ANodeThatIsNearIsPreferred) {
  World world(8, 0);
  world.Add("far", 100).rtt_us = 5000;
  world.Add("near", 100).rtt_us = 100;
  const std::vector<RegionChange> changes = world.Ask();
  ASSERT_FALSE(changes.empty());
  EXPECT_EQ(changes[0].to.target.value, "near");
}

TEST(PlacementTest, NoNodeIsGivenMoreThanItOffers) {
  World world(16, 2);
  world.Add("a", 5), world.Add("b", 3);
  world.Settle();
  EXPECT_EQ(world.Owned("a") + world.Owned("b"), 8);
  EXPECT_EQ(world.Owned("self"), 8) << "what nobody has room for stays";
  EXPECT_LE(world.Used("a"), 5u);
  EXPECT_LE(world.Used("b"), 3u);
}

TEST(PlacementTest, ARegionHasAShadowWhereThereIsRoomForOne) {
  World world(8, 4);
  world.Add("a", 4), world.Add("b", 4);
  world.Settle();
  for (const PlacedRegion& region : world.regions) {
    if (region.record.owner == kSelf) {
      EXPECT_EQ(region.record.shadow.value, "");
      continue;
    }
    EXPECT_NE(region.record.shadow.value, "");
    EXPECT_NE(region.record.shadow, region.record.owner);
    EXPECT_NE(region.record.shadow, kSelf);
  }
}

TEST(PlacementTest, AMigrationIsATargetThenAnOwnerAndTheOldOwnerIsTheShadow) {
  World world(2, 0);
  world.Add("a", 10), world.Add("b", 10);
  world.regions[0].record = {{"a"}, {}, {"b"}, {}};
  world.regions[1].record = {{"b"}, {"a"}, {}, {}};
  world.Node("a").holds = {true, true};
  world.Node("b").holds = {false, true};
  EXPECT_THAT(world.Ask(), IsEmpty()) << "it has to fetch it first";
  world.Node("b").holds[0] = true;
  const std::vector<RegionChange> changes = world.Ask();
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].region, RegionId(0));
  EXPECT_EQ(changes[0].to, (RegionRecord{{"b"}, {"a"}, {}, {}}));
  EXPECT_TRUE(changes[0].migrated);
}

TEST(PlacementTest, WithoutShadowsThereAreNoneAndThoseThatWereAreLetGoOf) {
  World world(8, 0);
  world.Add("a", 16), world.Add("b", 16);
  world.Settle();
  ASSERT_NE(world.regions[0].record.shadow.value, "");
  world.options.shadows = false;
  world.Settle();
  const NodeId from = world.regions[0].record.owner, to{from.value == "a" ? "b" : "a"};
  world.regions[0].record.pinned = to;
  world.Settle();
  EXPECT_EQ(world.regions[0].record.owner, to);
  for (const PlacedRegion& region : world.regions) EXPECT_EQ(region.record.shadow.value, "");
}

TEST(PlacementTest, AMigrationToANodeThatIsGoneIsCancelled) {
  World world(2, 0);
  world.Add("a", 10), world.Add("b", 10);
  world.regions[0].record = {{"a"}, {}, {"b"}, {}};
  world.regions[1].record = {{"a"}, {}, {}, {}};
  world.Node("a").holds = {true, true};
  world.Node("b").up = false;
  EXPECT_THAT(world.Ask(), IsEmpty()) << "it may come back";
  world.Fail("b");
  const std::vector<RegionChange> changes = world.Ask();
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_TRUE(changes[0].cancelled);
  EXPECT_FALSE(changes[0].failover);
  EXPECT_EQ(changes[0].to, (RegionRecord{{"a"}, {}, {}, {}}));
  // So is one to a node that never was.
  world.regions[0].record.target = {"nobody"};
  ASSERT_EQ(world.Ask().size(), 1u);
  EXPECT_TRUE(world.Ask()[0].cancelled);
}

TEST(PlacementTest, AfterALossTheShadowServesElseAHolderElseTheCoordinator) {
  World world(3, 10);
  world.Add("a", 10), world.Add("b", 10), world.Add("c", 10);
  world.regions[0].record = {{"a"}, {"b"}, {}, {}};
  world.regions[1].record = {{"a"}, {"b"}, {}, {}};
  world.regions[2].record = {{"a"}, {"b"}, {}, {}};
  world.Node("b").holds = {true, false, false};
  world.Node("c").holds = {true, true, false};
  world.Node("a").up = false;
  EXPECT_THAT(world.Ask(), IsEmpty()) << "it may come back";
  world.Fail("a");
  const std::vector<RegionChange> changes = world.Ask();
  ASSERT_EQ(changes.size(), 3u);
  EXPECT_EQ(changes[0].to.owner.value, "b");
  EXPECT_EQ(changes[0].to.shadow.value, "");
  EXPECT_EQ(changes[1].to.owner.value, "c");
  EXPECT_EQ(changes[2].to.owner, kSelf);
  for (const RegionChange& change : changes) EXPECT_TRUE(change.failover);
}

TEST(PlacementTest, AShadowThatIsGoneIsReplaced) {
  World world(2, 0);
  world.Add("a", 10), world.Add("b", 10), world.Add("c", 10);
  for (PlacedRegion& region : world.regions) region.record = {{"a"}, {"b"}, {}, {}};
  world.Fetch();
  world.Fail("b");
  world.options.most_moves = 0;
  world.Settle();
  for (const PlacedRegion& region : world.regions) {
    EXPECT_EQ(region.record.owner.value, "a");
    EXPECT_EQ(region.record.shadow.value, "c");
  }
}

TEST(PlacementTest, WhatIsPlacedByHandGoesThereAndStays) {
  World world(8, 8);
  world.Add("a", 100), world.Add("b", 100);
  world.regions[2].record.pinned = {"b"};
  world.Settle();
  EXPECT_EQ(world.regions[2].record.owner.value, "b");
  EXPECT_EQ(world.Owned("self"), 7);
  world.options.rebalance = true;
  world.Settle();
  EXPECT_EQ(world.regions[2].record.owner.value, "b");
  // Back again.
  world.regions[2].record.pinned = kSelf;
  world.Settle();
  EXPECT_EQ(world.regions[2].record.owner, kSelf);
  // To the coordinator though it overflows: others make room.
  world.nodes[0].offered_bytes = 4;
  world.Settle();
  EXPECT_EQ(world.regions[2].record.owner, kSelf);
  EXPECT_EQ(world.Owned("self"), 4);
}

TEST(PlacementTest, APinToANodeThatIsNotThereWaitsForIt) {
  World world(4, 4);
  world.Add("a", 10);
  world.Fail("a");
  world.regions[1].record.pinned = {"a"};
  EXPECT_THAT(world.Ask(), IsEmpty());
  world.Node("a").up = true;
  world.Node("a").gone = false;
  world.Settle();
  EXPECT_EQ(world.regions[1].record.owner.value, "a");
}

TEST(PlacementTest, DrainingEmptiesANodeAndEnds) {
  World world(16, 4);
  world.Add("a", 12), world.Add("b", 12), world.Add("c", 12);
  world.Settle();
  ASSERT_GT(world.Owned("b"), 0);
  world.Node("b").draining = true;
  world.Settle();
  EXPECT_EQ(world.Used("b"), 0u);
  EXPECT_EQ(world.Owned("self"), 4);
  EXPECT_EQ(world.failovers, 0);
  // The last one's go back to the coordinator, whether they fit or not.
  world.Node("a").draining = world.Node("c").draining = true;
  world.Settle();
  EXPECT_EQ(world.Owned("self"), 16);
  EXPECT_EQ(world.Used("a") + world.Used("c"), 0u);
}

TEST(PlacementTest, MoreLoadThanIsFairIsBorneUntilItIsMuchOrSomebodyAsks) {
  World world(20, 0);
  world.options.most_moves = 100;
  world.Add("a", 40), world.Add("b", 40);
  for (size_t r = 0; r < 20; ++r) world.regions[r].record = {{r < 12 ? "a" : "b"}, {}, {}, {}};
  world.Fetch();
  world.Settle();
  EXPECT_EQ(world.Owned("a"), 12) << "a fifth more is borne";
  world.options.rebalance = true;
  world.Settle();
  EXPECT_EQ(world.Owned("a"), 10);
  world.options.rebalance = false;
  for (size_t r = 0; r < 20; ++r) world.regions[r].record = {{r < 14 ? "a" : "b"}, {}, {}, {}};
  world.Fetch();
  world.Settle();
  EXPECT_LE(world.Owned("a"), 12);
}

TEST(PlacementTest, OwnersComeBeforeShadowsWhereRoomIsScarce) {
  World world(16, 8);
  world.Add("a", 8), world.Add("b", 8);
  world.Settle();
  ASSERT_EQ(world.Used("a") + world.Used("b"), 16u) << "all that is left has gone to shadows";
  world.nodes[0].offered_bytes = 4;
  world.Settle();
  EXPECT_EQ(world.Owned("self"), 4);
  EXPECT_LE(world.Used("a"), 8u);
  EXPECT_LE(world.Used("b"), 8u);
  // So do those of a node that is drained.
  world.nodes[0].offered_bytes = 10;
  world.Add("c", 6);
  world.Settle();
  world.Node("c").draining = true;
  world.Settle();
  EXPECT_LE(world.Owned("self"), 4);
}

// Nodes, regions and what befalls them at random. Whatever that was: it ends, within the moves allowed, and
// nothing is left with a node that is gone.
TEST(PlacementTest, ComesToAnEndWhateverHappens) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    testing::Random random(seed);
    const auto below = [&](int64_t n) { return static_cast<uint64_t>(random.Below(n)); };
    World world(1 + below(40), below(30));
    world.options.most_moves = 1 + static_cast<int>(below(5));
    for (PlacedRegion& region : world.regions) {
      region.bytes = 1 + below(3);
      region.load = random.Below(4) == 0 ? 0 : std::fabs(random.Normal());
    }
    const int64_t nodes = random.Below(6);
    const auto name = [](uint64_t i) { return absl::StrCat("n", i); };
    for (int64_t i = 0; i < nodes; ++i)
      world.Add(name(static_cast<uint64_t>(i)), below(60)).rtt_us = static_cast<double>(below(3000));
    for (int event = 0; event < 12; ++event) {
      // Some rounds, in which things are under way.
      for (uint64_t round = below(4); round > 0; --round) {
        world.Apply(world.Ask());
        ASSERT_LE(world.Targets(), world.options.most_moves);
        if (random.Below(2) == 0) world.Fetch();
      }
      if (nodes == 0) continue;
      const std::string node = name(below(nodes));
      PlacedRegion& region = world.regions[below(static_cast<int64_t>(world.regions.size()))];
      switch (random.Below(8)) {
        case 0:
          world.Fail(node);
          break;
        case 1:
          world.Node(node).up = false;
          break;
        case 2:
        case 3:
          world.Node(node).up = true;
          world.Node(node).gone = false;
          break;
        case 4:
          world.Node(node).draining = random.Below(2) == 0;
          break;
        case 5:
          region.record.pinned = random.Below(3) == 0   ? NodeId{}
                                 : random.Below(3) == 0 ? kSelf
                                                        : NodeId{node};
          break;
        case 6:
          region.load = std::fabs(random.Normal());
          break;
        default:
          world.options.rebalance = random.Below(2) == 0;
      }
    }
    // Those that are merely down would hold things up for ever.
    for (PlacedNode& node : world.nodes) {
      if (!node.up) node.gone = true;
    }
    const int rounds = world.Settle(50 + 20 * static_cast<int>(world.regions.size()));
    for (const PlacedRegion& region : world.regions) {
      const RegionRecord& record = region.record;
      for (const NodeId* id : {&record.owner, &record.shadow}) {
        if (id->value.empty()) continue;
        const PlacedNode& node = world.Node(id->value);
        EXPECT_TRUE(node.up && !node.gone) << id->value << " is gone";
        EXPECT_FALSE(node.draining) << id->value << " is drained";
      }
      EXPECT_NE(record.owner.value, "");
      EXPECT_NE(record.owner, record.shadow);
      EXPECT_EQ(record.target.value, "");
      if (record.pinned.value.empty()) continue;
      const PlacedNode& pinned = world.Node(record.pinned.value);
      EXPECT_TRUE(!pinned.up || pinned.draining || record.owner == record.pinned) << record.pinned.value;
    }
    if (::testing::Test::HasFailure()) {
      ADD_FAILURE() << "after " << rounds << " rounds";
      return;
    }
  }
}

}  // namespace
}  // namespace omni
