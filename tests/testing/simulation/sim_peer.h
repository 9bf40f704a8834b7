// A remote node as a simulated coordinator uses it: the product's PeerState in a mailbox (cluster/peer.cc).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cluster/peer_state.h"
#include "tests/testing/simulation/network.h"
#include "tests/testing/simulation/swarm.h"

namespace omni::simulation {

// In the coordinator's mailbox by way of the owner.
class PeerOwner {
 public:
  virtual ~PeerOwner() = default;
  virtual void OnUp(const NodeId& node, const WelcomeFrame& welcome) = 0;
  virtual void OnDown(const NodeId& node, const absl::Status& reason) = 0;
  virtual void OnHoldings(const NodeId& node, const HoldingsFrame& holdings) = 0;
  virtual void OnFree(const NodeId& node, uint64_t bytes) = 0;
};

class SimPeer : public NodeLink, private PeerState::Owner, private RegionLinkEvents {
 public:
  SimPeer(Process& home, const PeerOptions& options, NodeId node, const std::string& address,
          HelloFrame hello, int32_t source, Network& network, LinkEvents& links, PeerOwner& owner);
  ~SimPeer() override;

  void Send(RegionRequestPtr request) override { gathered_.push_back(std::move(request)); }
  void Flush() override;
  void Prefetch(PrefetchFrame) override {}
  void Cancel(uint64_t request_id) override;
  NodeHealth& health() override { return health_; }

  void Stop();
  void Assign(AssignFrame assign);
  void SetAddress(std::string address);
  const PeerCounters& counters() const { return counters_; }

 private:
  class Numbered;
  std::unique_ptr<FrameStream> Open(const std::string& address);
  void Do(std::function<void()> f);
  void Tick();
  void CheckNothingForgotten();

  // --- PeerState::Owner
  void OnUp(const WelcomeFrame& welcome) override { owner_.OnUp(node_, welcome); }
  void OnDown(const absl::Status& reason) override { owner_.OnDown(node_, reason); }
  void OnHoldings(const HoldingsFrame& holdings) override { owner_.OnHoldings(node_, holdings); }
  void OnFree(uint64_t bytes) override { owner_.OnFree(node_, bytes); }

  // --- RegionLinkEvents, of the state
  void OnReply(RegionReplyPtr reply) override;
  void OnLost(RegionId region, std::string reason) override;
  void OnMoved(RegionId, uint64_t) override {}

  Process& home_;
  const NodeId node_;
  Network& network_;
  LinkEvents& links_;
  PeerOwner& owner_;
  NodeHealth health_;
  PeerCounters counters_;
  Mailbox mailbox_;
  uint64_t last_stream_ = 0;
  bool stopped_ = false;
  std::vector<RegionRequestPtr> gathered_;
  std::map<uint64_t, RegionId> asked_;  // written, and neither answered, lost nor cancelled
  PeerState state_;
};

}  // namespace omni::simulation
