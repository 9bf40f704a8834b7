// A coordinator's state with a store, nodes and a world that a test moves by hand.
#pragma once

#include <algorithm>
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
#include <gtest/gtest.h>

#include "cluster/cluster_state.h"
#include "tests/testing/fake_store.h"

namespace omni::testing {

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
  void Disconnect(const NodeId& node) override { log.push_back(absl::StrCat("disconnect ", node.value)); }
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

class ClusterStateFixture : public ::testing::Test {
 protected:
  ClusterStateFixture() {
    options_.self = {"self"};
    options_.address = "self:1";
    SetRegions(4, 2);
  }

  void SetRegions(int32_t regions, uint64_t offered_bytes) {
    options_.cluster = {"name", "model", regions};
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
    if (world_ != nullptr) past_.push_back(std::move(world_));
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

  Time now_ = Time(std::chrono::hours(1));
  FakeStore store_{now_};
  FakeNodes nodes_;
  ClusterOptions options_;
  ClusterCounters counters_;
  std::vector<std::unique_ptr<FakeClusterWorld>> past_;  // answers on their way go to them
  std::unique_ptr<FakeClusterWorld> world_;
  std::unique_ptr<ClusterState> state_;
};

}  // namespace omni::testing
