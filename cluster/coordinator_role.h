// What a node does that may coordinate: stands for election, and while it leads keeps its cluster's records,
// its connections to the other nodes and the routes of its swarm's links.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/actor_system.h"
#include "actors/region_link.h"
#include "cluster/cluster_link.h"
#include "cluster/cluster_report.h"
#include "cluster/cluster_state.h"
#include "cluster/coordination.h"
#include "cluster/leadership.h"
#include "cluster/peer_state.h"
#include "cluster/transport.h"

namespace omni {

struct CoordinatorRoleOptions {
  ClusterOptions cluster;
  LeadershipOptions leadership;
  PeerOptions peers;
  HedgeOptions hedges;
};

class CoordinatorRole {
 public:
  // Of whoever has the swarm. On the actors' thread; must not wait.
  class Swarm {
   public:
    virtual ~Swarm() = default;
    virtual void OnElected(uint64_t term) = 0;
    // It leads no more: what is under way is ended, nothing more is shown.
    virtual void OnDeposed(const absl::Status& reason) = 0;
    virtual void OnOther(const LeaderRecord& leader) = 0;
    virtual std::vector<int64_t> RegionRequests() = 0;
    virtual void OnTick() {}  // as long as it leads, about once a second
  };

  // All references but the store outlive it.
  CoordinatorRole(ActorSystem& actors, const ModelConfig& config, CoordinatorRoleOptions options,
                  CoordinationStore& store, FrameTransport& transport, Swarm& swarm);
  ~CoordinatorRole();  // when the swarm's links have gone, and after Stop the store too
  // Resigns, and nothing is done any more; not on the actors' thread. Waits until the store has heard of it,
  // so that another leads at once, but no longer than twice the lease, or three seconds where the store is
  // this process's alone. Answers of the store may come until
  // that has gone, which is to be between Stop and the role's end.
  void Stop();

  // For the swarm's options; made before the role starts.
  LinkFactory MakeLinks();
  void Start();

  // From any thread; `done` on the actors' thread. Unavailable: it does not lead.
  using Done = std::function<void(absl::Status)>;
  void Join(NodeId node, NodeRecord record, std::function<void(absl::StatusOr<ClusterRecord>)> done);
  void Place(RegionId region, NodeId node, Done done);
  void Drain(NodeId node, bool undo, Done done);
  void Forget(NodeId node, Done done);
  void Rebalance(std::function<void(absl::StatusOr<int>)> done);
  void Report(std::function<void(absl::StatusOr<ClusterReport>)> done);
  // Called on the actors' thread whenever the report may have changed, until the watch is let go of.
  std::shared_ptr<void> Watch(std::function<void()> on_change);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
