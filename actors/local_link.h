// A region that is an actor of this process.
#pragma once

#include <memory>

#include "actors/messages.h"
#include "actors/region.h"
#include "actors/region_link.h"

namespace omni {

// Belongs to the coordinator's actor, and is used on its thread.
class LocalLink : public RegionLink {
 public:
  // Spawns the region, monitored by `coordinator`, who sends its requests and gets its replies. All outlive
  // the link.
  LocalLink(CoordinatorActor::pointer coordinator, const RegionState& region, Outstanding* outstanding);
  ~LocalLink() override;  // ends the region

  void Send(RegionRequestPtr request) override;
  void Prefetch(LayerId layer, std::span<const ExpertId> experts, Foresight foresight) override;
  void Renew() override;

  // Whether this is the address of the region's present actor.
  bool Is(const caf::actor_addr& address) const { return actor_.address() == address; }

 private:
  void Spawn();

  CoordinatorActor::pointer coordinator_;
  RegionState region_;
  Outstanding* outstanding_;
  RegionActor actor_;
};

}  // namespace omni
