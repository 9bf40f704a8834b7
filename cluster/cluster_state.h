// The coordinator's mind about its cluster: which nodes there are, who has which region, what is to change.
// What it decides stands in the coordination store before anybody acts by it, and each of its writes holds
// only as long as it leads. Without the actor (cluster.h).
//
// It says what each node is to hold (Assign) and hears what it does hold: a migration, a failover and a
// restart are the same thing, a record and a node that is not yet as the record says. Whoever leads next
// reads the records and goes on.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/counters.h"
#include "cluster/cluster_records.h"
#include "cluster/coordination.h"
#include "cluster/frames.h"
#include "cluster/placement.h"

namespace omni {

struct ClusterOptions {
  NodeId self;
  std::string address;                 // where this node is reached
  ClusterRecord cluster;               // its id is that of one that is made; of one that is there, its own
  uint64_t offered_bytes = 0;          // memory that this process has for experts
  std::vector<uint64_t> region_bytes;  // by region: its tiles, all layers
  std::chrono::milliseconds gone{10'000};  // a node that is down so long is replaced
  std::chrono::milliseconds weigh{5'000};  // between looks at what regions are asked
  int record_loads = 12;                   // after so many looks they are recorded, for whoever leads next
  PlacementOptions placement;
  std::string program = {};  // this process's version
};

struct ClusterCounters {
  Counter failovers, migrations, migrations_cancelled, commits, refused_commits;
};

struct NodeView {
  NodeId id;
  NodeRecord record;
  bool self = false, up = false, gone = false;
  HoldingsFrame holdings;
  uint64_t free_bytes = 0;
  uint32_t protocol = 0;     // as its welcome said; 0 while it is down
  std::string program = {};  // its version; empty while it is down, and of one that does not say
};

struct RegionView {
  RegionRecord record;
  uint64_t epoch = 0;
};

struct ClusterView {
  ClusterRecord cluster;
  NodeId leader;
  uint64_t term = 0;
  Revision revision = 0;
  std::vector<NodeView> nodes;  // this process first, then by id
  std::vector<RegionView> regions;
};

class ClusterState {
 public:
  using Clock = std::chrono::steady_clock;

  // What the state makes happen. Called from within the calls below.
  class World {
   public:
    virtual ~World() = default;
    // From now on the node is to be connected with, and heard of by OnUp and so on.
    virtual void Connect(const NodeId& node, const std::string& address) = 0;
    virtual void Disconnect(const NodeId& node) = 0;  // it is none of the cluster's any more
    virtual void Assign(const NodeId& node, AssignFrame assign) = 0;
    // Nodes have been told; the links may now go by it.
    virtual void Publish(const ClusterView& view) = 0;
    virtual void Changed(const ClusterView& view) = 0;  // what Status shows
    // It does not lead any more, or cannot go on. The last call.
    virtual void Deposed(const absl::Status& reason) = 0;
    // Runs `f` later, on the state's thread, unless the state has gone. Thread-safe.
    virtual void Post(std::function<void()> f) = 0;
    virtual std::vector<int64_t> RegionRequests() = 0;  // of this process' coordinator, since its start
    virtual double RttMicros(const NodeId& node) = 0;
  };

  using Done = std::function<void(absl::Status)>;

  // All references outlive it.
  ClusterState(ClusterOptions options, CoordinationStore& store, ClusterCounters& counters, World& world);
  ~ClusterState();  // whoever still waits is told Unavailable

  // Leads by the leader record that was made at revision `term`: reads the records, or makes them.
  void Lead(uint64_t term, Clock::time_point now);
  bool ready() const { return ready_; }  // has read them

  void OnUp(const NodeId& node, const WelcomeFrame& welcome, Clock::time_point now);
  void OnDown(const NodeId& node, const absl::Status& reason, Clock::time_point now);
  void OnHoldings(const NodeId& node, const HoldingsFrame& holdings);
  void OnFree(const NodeId& node, uint64_t bytes);
  void OnTick(Clock::time_point now);

  // Each is done when it is recorded. NotFound: no such node or region.
  void Join(const NodeId& node, const NodeRecord& record, Done done);
  void Place(RegionId region, const NodeId& node, Done done);  // empty: takes the pin away
  void Drain(const NodeId& node, bool undo, Done done);
  void Forget(const NodeId& node, Done done);  // FailedPrecondition: it is connected, or owns regions
  void Rebalance(std::function<void(absl::StatusOr<int>)> done);  // moves that are begun

  const ClusterView& view() const { return view_; }
  const ClusterRecord& cluster() const { return cluster_; }  // once anything is connected

 private:
  struct Node {
    NodeRecord record;
    Revision changed = 0;
    bool up = false;
    Clock::time_point down_since;
    HoldingsFrame holdings;
    uint64_t free_bytes = 0;
    uint32_t protocol = 0;
    std::string program;
  };
  struct Region {
    RegionRecord record;
    Revision changed = 0;
    double load = 0;
    int64_t requests = 0;
  };
  // Something to be recorded: makes its transaction of what is known when its turn comes. One without
  // changes: there is nothing to do.
  struct Intent {
    std::function<absl::StatusOr<Transaction>()> make;
    Done done;
    std::vector<RegionChange> changes;  // of the placement, for the counters
  };

  void Read();
  // What stands in the store is not known at present.
  bool Unsure() const { return reading_ || read_again_ != Clock::time_point::max(); }
  void OnRecords(absl::StatusOr<Records> records);
  absl::Status Take(const Records& records);
  void Found(const std::vector<Region>& regions);
  void Enqueue(Intent intent);
  void Next();
  void OnCommitted(const Transaction& transaction, absl::StatusOr<Committed> committed);
  void Apply(const Transaction& transaction, Revision revision);
  void Reconcile();
  std::vector<PlacedNode> PlacedNodes() const;
  std::vector<PlacedRegion> PlacedRegions() const;
  void Weigh();
  void RecordLoads();
  void Tell();
  void Show();
  void Depose(absl::Status reason);
  void AnswerAll(const absl::Status& status);  // whoever waits for something to be recorded
  bool Gone(const Node& node) const;
  template <typename F>
  auto Guard(F f);  // a callback of the store's as a message to the state, if it is still there

  const ClusterOptions options_;
  CoordinationStore& store_;
  ClusterCounters& counters_;
  World& world_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);

  ClusterRecord cluster_;
  uint64_t term_ = 0;
  Clock::time_point now_, weighed_;
  bool ready_ = false, reading_ = false, deposed_ = false, rebalance_ = false;
  Clock::time_point read_again_ = Clock::time_point::max();
  int weighed_times_ = 0;     // since the loads were recorded
  bool asked_since_ = false;  // anything, since then
  Revision revision_ = 0, published_ = 0;
  std::map<NodeId, Node> nodes_;
  std::vector<Region> regions_;
  std::deque<Intent> intents_;
  bool committing_ = false;
  ClusterView view_;
};

}  // namespace omni
