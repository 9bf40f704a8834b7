#include "cluster/cluster_state.h"

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/fake_store.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using testing::FakeStore;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Time = std::chrono::steady_clock::time_point;

// Nodes as they are behind a coordinator: they outlive it.
struct FakeNodes {
  struct Node {
    bool running = true;
    std::vector<RegionId> holds;
    std::optional<AssignFrame> assigned;
  };
  std::map<NodeId, Node> nodes;
};

// A coordinator's world: what it wants is kept in words, and done when the test lets it.
class FakeClusterWorld : public ClusterState::World {
 public:
  explicit FakeClusterWorld(FakeNodes& nodes) : nodes_(nodes) {}

  void Connect(const NodeId& node, const std::string& address) override {
    log.push_back(absl::StrCat("connect ", node.value, " ", address));
    connected.push_back(node);
  }
  void Assign(const NodeId& node, AssignFrame assign) override {
    log.push_back(absl::StrCat("assign ", node.value, " ", assign.revision));
    if (on_act) on_act(assign.revision);
    nodes_.nodes[node].assigned = std::move(assign);
  }
  void Publish(const ClusterView& view) override {
    log.push_back(absl::StrCat("publish ", view.revision));
    if (on_act) on_act(static_cast<uint64_t>(view.revision));
    published = view;
  }
  void Changed(const ClusterView& view) override { shown = view; }
  void Deposed(const absl::Status& reason) override {
    EXPECT_FALSE(deposed.has_value()) << "it is the last call";
    deposed = reason;
  }
  void Post(std::function<void()> f) override { posted.push_back(std::move(f)); }
  std::vector<int64_t> RegionRequests() override { return requests; }
  double RttMicros(const NodeId&) override { return 0; }

  std::vector<std::string> log;
  std::vector<NodeId> connected;
  std::function<void(uint64_t revision)> on_act;
  std::optional<ClusterView> published;
  ClusterView shown;
  std::optional<absl::Status> deposed;
  std::deque<std::function<void()>> posted;
  std::vector<int64_t> requests;

 private:
  FakeNodes& nodes_;
};

class ClusterStateTest : public ::testing::Test {
 protected:
  ClusterStateTest() {
    options_.self = {"self"};
    options_.address = "self:1";
    SetRegions(4, 2);
  }

  void SetRegions(int32_t regions, uint64_t offered_bytes) {
    options_.cluster = {"name", "model", regions, kClusterProtocol};
    options_.offered_bytes = offered_bytes;
    options_.region_bytes.assign(static_cast<size_t>(regions), 1);
  }
  // A leader record as an election leaves it; its revision is the term.
  uint64_t Elect(const std::string& node) {
    Transaction transaction;
    transaction.changes.push_back({kLeaderKey, ToJson(LeaderRecord{{node}, node + ":1"})});
    const auto committed = store_.state().Commit(transaction, now_);
    EXPECT_TRUE(committed.ok() && committed->applied);
    return static_cast<uint64_t>(committed->revision);
  }
  // A coordinator begins to lead; the one before is gone, without a word.
  void Lead(const std::string& self = "self") {
    state_ = nullptr;
    options_.self = {self};
    options_.address = self + ":1";
    world_ = std::make_unique<FakeClusterWorld>(nodes_);
    state_ = std::make_unique<ClusterState>(options_, store_, counters_, *world_);
    state_->Lead(Elect(self), now_);
  }
  // One deed of the state's thread or of the store; false: there is nothing to do.
  bool Step() {
    if (!world_->posted.empty()) {
      const auto f = std::move(world_->posted.front());
      world_->posted.pop_front();
      f();
    } else if (store_.coming_back() > 0) {
      store_.ComeBack();
    } else if (store_.on_the_way() > 0) {
      store_.Arrive();
    } else {
      return false;
    }
    return true;
  }
  void Run(int most = 2000) {
    while (most-- > 0) {
      if (!Step()) return;
    }
    ADD_FAILURE() << "the state never rests";
  }
  void Tick(std::chrono::milliseconds time) {
    now_ += time;
    store_.SetNow(now_);
    state_->OnTick(now_);
    Run();
  }
  void Start() {
    Lead();
    Run();
    ASSERT_TRUE(state_->ready());
  }

  void Join(const std::string& id, uint64_t bytes) {
    absl::Status done = absl::UnknownError("not done");
    state_->Join({id}, {id + ":1", bytes, false}, [&](absl::Status s) { done = std::move(s); });
    Run();
    EXPECT_TRUE(done.ok()) << done;
  }
  void Up(const std::string& id) {
    nodes_.nodes[{id}].running = true;
    state_->OnUp({id}, {}, now_);
    state_->OnHoldings({id}, {0, nodes_.nodes[{id}].holds, 0, 0, 0, ""});
    Run();
  }
  void Down(const std::string& id) {
    nodes_.nodes[{id}].running = false;
    state_->OnDown({id}, absl::UnavailableError("gone"), now_);
    Run();
  }
  // Every node that runs has what it was told to hold.
  bool Fetch() {
    bool news = false;
    for (auto& [id, node] : nodes_.nodes) {
      if (!node.running || !node.assigned.has_value()) continue;
      std::vector<RegionId> holds;
      for (const AssignFrame::Region& r : node.assigned->regions) holds.push_back(r.region);
      if (holds == node.holds) continue;
      node.holds = holds;
      news = true;
      state_->OnHoldings(id, {node.assigned->revision, std::move(holds), 0, 0, 0, ""});
    }
    return news;
  }
  void Settle() {
    for (int i = 0; i < 200; ++i) {
      Run();
      if (!Fetch()) return;
    }
    ADD_FAILURE() << "it never ends";
  }

  std::map<std::string, std::string> Stored() {
    std::map<std::string, std::string> stored;
    for (const auto& [key, record] : store_.state().contents().records) stored[key] = record.value;
    return stored;
  }
  RegionRecord StoredRegion(int32_t region) {
    return *ParseRegionRecord(Stored().at(RegionKey(RegionId(region))));
  }
  std::vector<std::string> Owners() {
    std::vector<std::string> owners;
    for (int32_t r = 0; r < options_.cluster.regions; ++r) owners.push_back(StoredRegion(r).owner.value);
    return owners;
  }
  int64_t OwnedBy(const std::string& id) {
    const std::vector<std::string> owners = Owners();
    return std::count(owners.begin(), owners.end(), id);
  }
  absl::Status Answer(const std::function<void(ClusterState::Done)>& ask) {
    absl::Status done = absl::UnknownError("not done");
    ask([&](absl::Status s) { done = std::move(s); });
    Run();
    return done;
  }

  Time now_ = Time(1h);
  FakeStore store_{now_};
  FakeNodes nodes_;
  ClusterOptions options_;
  ClusterCounters counters_;
  std::unique_ptr<FakeClusterWorld> world_;
  std::unique_ptr<ClusterState> state_;
};

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

TEST_F(ClusterStateTest, AClusterOfMoreRegionsThanATransactionHoldsIsFounded) {
  SetRegions(1000, 2000);
  Start();
  EXPECT_EQ(OwnedBy("self"), 1000);
}

TEST_F(ClusterStateTest, ASecondCoordinatorReadsTheRecordsAndGoesOn) {
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

TEST_F(ClusterStateTest, ACoordinatorOfAnotherModelOrTorusDoesNotLead) {
  Start();
  SetRegions(5, 2);
  Lead("other");
  Run();
  ASSERT_TRUE(world_->deposed.has_value());
  EXPECT_EQ(world_->deposed->code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(world_->deposed->message()), HasSubstr("in 4 regions"));
  EXPECT_FALSE(world_->published.has_value());
}

TEST_F(ClusterStateTest, RecordsThatCannotBeReadEndTheLead) {
  Start();
  Transaction transaction;
  transaction.changes.push_back({RegionKey(RegionId(1)), "no json"});
  ASSERT_TRUE(store_.state().Commit(transaction, now_).ok());
  Lead();
  Run();
  ASSERT_TRUE(world_->deposed.has_value());
  EXPECT_EQ(world_->deposed->code(), absl::StatusCode::kDataLoss);
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

TEST_F(ClusterStateTest, NothingIsToldBeforeItStandsInTheStore) {
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

TEST_F(ClusterStateTest, ACoordinatorWhoseLeaderRecordHasChangedIsDeposedByItsNextCommit) {
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

TEST_F(ClusterStateTest, AStoreThatCannotBeReachedIsReadAgain) {
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

TEST_F(ClusterStateTest, AFoundingThatFailsIsTriedAgainInTime) {
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

TEST_F(ClusterStateTest, ACommitThatNobodyHeardOfIsReadAgainAndCountsOnce) {
  Start();
  int unheard = 0;
  store_.fate = [&] { return unheard++ == 0 ? FakeStore::Fate::kUnheard : FakeStore::Fate::kDone; };
  bool done = false;
  state_->Join({"a"}, {"a:1", 10, false}, [&](absl::Status s) { done = s.ok(); });
  Run();
  EXPECT_FALSE(done);
  EXPECT_TRUE(Stored().contains(NodeKey({"a"})));
  Tick(1s);
  EXPECT_TRUE(done);
  EXPECT_THAT(world_->connected, ElementsAre(NodeId{"a"})) << "it is a node like any other";
  Up("a");
  Settle();
  EXPECT_EQ(OwnedBy("a"), 2);
}

TEST_F(ClusterStateTest, WhatTheStoreRefusesHoldsNobodyUp) {
  Start();
  const absl::Status joined = Answer([&](auto done) {
    state_->Join({"a"}, {std::string(kMaxTransactionBytes, 'x'), 1, false}, done);
  });
  EXPECT_EQ(joined.code(), absl::StatusCode::kInvalidArgument);
  Join("b", 10);
  EXPECT_TRUE(Stored().contains(NodeKey({"b"})));
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
TEST_F(ClusterStateTest, ACoordinatorThatIsReplacedAtAnyStepChangesNothingOfTheEnd) {
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

TEST_F(ClusterStateTest, ACoordinatorThatHasEndedIsNotToldAnyMore) {
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

TEST_F(ClusterStateTest, ANodeThatCoordinatesNowIsNotConnectedWith) {
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
