// A remote node as this process' coordinator uses it: an actor that has its stream.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "actors/actor_system.h"
#include "cluster/peer_state.h"
#include "cluster/routes.h"
#include "cluster/transport.h"

namespace omni {

// The coordinator's events for whoever hears of regions, as long as there is a coordinator. Thread-safe.
class LinkEvents : public RegionLinkEvents {
 public:
  void Attach(RegionLinkEvents* events);
  void Detach(RegionLinkEvents* events);  // nothing reaches it any more when this returns
  void OnReply(RegionReplyPtr reply) override;
  void OnLost(RegionId region, std::string reason) override;
  void OnMoved(RegionId region, uint64_t epoch) override;

 private:
  std::mutex mutex_;
  RegionLinkEvents* events_ = nullptr;
};

// What a node's stream says that is no answer; on the actors' thread.
class PeerEvents {
 public:
  virtual ~PeerEvents() = default;
  virtual void OnUp(const NodeId& node, const WelcomeFrame& welcome) = 0;
  virtual void OnDown(const NodeId& node, const absl::Status& reason) = 0;
  virtual void OnHoldings(const NodeId& node, const HoldingsFrame& holdings) = 0;
  virtual void OnFree(const NodeId& node, uint64_t bytes) = 0;
};

// As a NodeLink: of one coordinator, on its thread. All else is thread-safe.
class Peer : public NodeLink {
 public:
  // `source`: the node's number in the placement. All references outlive it.
  Peer(ActorSystem& actors, const ModelConfig& config, const PeerOptions& options, NodeId node,
       std::string address, HelloFrame hello, int32_t source, FrameTransport& transport, LinkEvents& links,
       PeerEvents& events);
  ~Peer() override;  // closes the stream and waits for the actor to end; not on the actors' thread

  void Send(RegionRequestPtr request) override;
  void Flush() override;
  void Prefetch(PrefetchFrame prefetch) override;
  void Cancel(uint64_t request_id) override;
  NodeHealth& health() override;

  void Stop();  // closes the stream for good
  void Assign(AssignFrame assign);
  void SetAddress(std::string address);
  const PeerCounters& counters() const;
  const NodeId& node() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
