// The swarm of a coordinator's process: the product's CoordinatorState with a toy model, and regions of its
// own.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "actors/coordinator_state.h"
#include "actors/session.h"
#include "tests/testing/simulation/sim_door.h"
#include "tests/testing/simulation/toy_model.h"
#include "tests/testing/simulation/world.h"

namespace omni::simulation {

// The coordinator's events for whoever hears of regions, as long as there is a coordinator (cluster/peer.h).
class LinkEvents : public RegionLinkEvents {
 public:
  void Attach(RegionLinkEvents* events) { events_ = events; }
  void Detach(RegionLinkEvents* events) {
    if (events_ == events) events_ = nullptr;
  }
  void OnReply(RegionReplyPtr reply) override {
    if (events_ != nullptr) events_->OnReply(std::move(reply));
  }
  void OnLost(RegionId region, std::string reason) override {
    if (events_ != nullptr) events_->OnLost(region, std::move(reason));
  }
  void OnMoved(RegionId region, uint64_t epoch) override {
    if (events_ != nullptr) events_->OnMoved(region, epoch);
  }

 private:
  RegionLinkEvents* events_ = nullptr;
};

class SimSwarm : private StepTimer, private RegionLinkEvents {
 public:
  SimSwarm(Process& home, const RegionCallOptions& calls, const LinkFactory& links, Duration compute);
  ~SimSwarm() override;

  void Shutdown() { state_->Shutdown(); }  // before it goes, unless its process was killed
  absl::StatusOr<std::unique_ptr<Answer>> Submit(GenerateRequest request, std::function<void()> notify);
  std::vector<int64_t> RegionRequests() const;

 private:
  class LocalLink;
  class Handle;

  // --- StepTimer
  void StepSoon() override;
  void TickAfter(milliseconds) override;
  void WakeAt(Time) override;
  void PartDone() override {}
  // --- RegionLinkEvents
  void OnReply(RegionReplyPtr reply) override;
  void OnLost(RegionId region, std::string reason) override;
  void OnMoved(RegionId region, uint64_t epoch) override;

  void Take(const RegionReply& reply);

  Process& home_;
  const Duration compute_;
  Mailbox mailbox_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  SwarmCounters counters_;
  ToyDecoder decoder_;
  ToyChoice choice_;
  std::unique_ptr<CoordinatorState> state_;
  uint64_t next_session_ = 1;
  std::vector<uint64_t> epochs_;  // by region: the last that the state was told
};

}  // namespace omni::simulation
