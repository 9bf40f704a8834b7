// A process that may coordinate: the product's Leadership, ClusterState, session log and links, put together
// as cluster/coordinator_role.cc and cluster/cluster_node.cc do, in mailboxes instead of actors.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cluster/cluster_link.h"
#include "cluster/cluster_state.h"
#include "cluster/leadership.h"
#include "cluster/session_log.h"
#include "store/state/database.h"
#include "tests/testing/simulation/checks.h"
#include "tests/testing/simulation/network.h"
#include "tests/testing/simulation/sim_door.h"
#include "tests/testing/simulation/sim_peer.h"
#include "tests/testing/simulation/store.h"
#include "tests/testing/simulation/swarm.h"

namespace omni::simulation {

struct CoordinatorSetup {
  ClusterOptions cluster;
  LeadershipOptions leadership;
  PeerOptions peers;
  HedgeOptions hedges;  // without a clock
  milliseconds call_timeout{1000};
  Duration compute{0};  // of an expert
  // Where sessions are kept: in the cluster's store, or on the coordinator's own disk.
  bool sessions_in_cluster = false;
  Durability durability = Durability::kSynced;  // of the latter
};

class Coordinator : public Process,
                    private ClusterState::World,
                    private Leadership::Owner,
                    private PeerOwner {
 public:
  // `store`: of a process of its own; null: this process has one.
  Coordinator(simulation::World& world, std::string name, Network& network, Checks& checks,
              StoreServer* store, StoreServer::OnCommit on_commit, CoordinatorSetup setup);

  // `done` is called with what the node has joined, or with nothing.
  void AskToJoin(const NodeRecord& record, std::function<void(std::optional<ClusterRecord>)> done);
  // What an operator may do, drawn.
  void Operate();
  void DrainAndBack(const std::string& node, Duration after);
  SimDoor* door() { return parts_ == nullptr ? nullptr : parts_->door.get(); }

  // For the checks.
  bool leads() const { return parts_ != nullptr && parts_->leadership->leads(); }
  bool LeadsByItsClock() const { return leads() && Clock() < parts_->leadership->end(); }
  const ClusterState* cluster() const { return parts_ == nullptr ? nullptr : parts_->cluster.get(); }
  std::string DiskOfStore() const { return name + "/coordination"; }
  std::string DiskOfSessions() const { return name + "/sessions"; }

 private:
  struct Parts {  // of one life of the process
    std::unique_ptr<Mailbox> role;
    std::unique_ptr<StoreClient> store;
    std::unique_ptr<Database> sessions;
    std::unique_ptr<SessionLog> log;
    LinkEvents links;
    Routes routes;
    std::unique_ptr<HedgeBudget> budget;
    ClusterCounters counters;
    std::unique_ptr<Leadership> leadership;
    std::unique_ptr<ClusterState> cluster, former;
    std::map<NodeId, std::pair<std::shared_ptr<SimPeer>, int32_t>> peers;
    std::vector<std::shared_ptr<SimPeer>> retired;
    size_t next_source = 0;
    HelloFrame hello;
    std::unique_ptr<SimSwarm> swarm;
    std::unique_ptr<Mailbox> restarter;
    std::unique_ptr<SimDoor> door;
    bool leading = false;
    uint64_t led_term = 0;
  };
  class AttachedLink;

  void OnStart() override;
  void OnKill(bool power) override;
  void StartSwarm();
  void Tick();
  void StepDown(const absl::Status& reason);

  // --- ClusterState::World
  void Connect(const NodeId& node, const std::string& address) override;
  void Disconnect(const NodeId& node) override;
  void Assign(const NodeId& node, AssignFrame assign) override;
  void Publish(const ClusterView& view) override;
  void Changed(const ClusterView&) override {}
  void Deposed(const absl::Status& reason) override { StepDown(reason); }
  void Post(std::function<void()> f) override { parts_->role->Post(std::move(f)); }
  std::vector<int64_t> RegionRequests() override;
  double RttMicros(const NodeId& node) override;
  // --- Leadership::Owner
  void OnElected(uint64_t term) override;
  void OnLost(const absl::Status& reason) override { StepDown(reason); }
  void OnOther(const LeaderRecord&) override {}
  // --- PeerOwner
  void OnUp(const NodeId& node, const WelcomeFrame& welcome) override;
  void OnDown(const NodeId& node, const absl::Status& reason) override;
  void OnHoldings(const NodeId& node, const HoldingsFrame& holdings) override;
  void OnFree(const NodeId& node, uint64_t bytes) override;

  Network& network_;
  Checks& checks_;
  std::unique_ptr<StoreServer> own_store_;
  StoreServer& store_;
  CoordinatorSetup setup_;
  std::unique_ptr<Parts> parts_;
};

}  // namespace omni::simulation
