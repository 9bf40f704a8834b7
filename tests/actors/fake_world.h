// The coordinator's world as a test moves it.
#pragma once

#include <deque>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "actors/coordinator_state.h"

namespace omni::testing {

// The world around the state, by hand: requests and wishes are kept until the test lets them happen.
class FakeWorld : public StepTimer {
 public:
  class Link : public RegionLink {
   public:
    Link(FakeWorld& world, RegionId region) : world_(world), region_(region) {}
    void Send(RegionRequestPtr request) override { world_.requests.push_back(std::move(request)); }
    void Flush() override { ++world_.flushes; }
    void Prefetch(LayerId layer, std::span<const ExpertId> experts, Foresight foresight) override {
      world_.expected.push_back({layer, {experts.begin(), experts.end()}});
      world_.foresight.push_back(foresight);
    }
    void Renew() override { world_.renewed.push_back(region_); }

   private:
    FakeWorld& world_;
    RegionId region_;
  };

  std::vector<std::shared_ptr<RegionLink>> Links(int64_t regions) {
    std::vector<std::shared_ptr<RegionLink>> links;
    for (int32_t r = 0; r < regions; ++r) links.push_back(std::make_shared<Link>(*this, RegionId(r)));
    return links;
  }
  void StepSoon() override { ++steps; }
  void TickAfter(std::chrono::milliseconds) override { ++ticks; }
  void WakeAt(std::chrono::steady_clock::time_point time) override { wakes.push_back(time); }
  void PartDone() override { ++parts_done; }

  std::vector<std::chrono::steady_clock::time_point> wakes;
  std::deque<RegionRequestPtr> requests;
  std::vector<RegionId> renewed;
  std::vector<std::pair<LayerId, std::vector<ExpertId>>> expected;
  std::vector<Foresight> foresight;  // of those in `expected`
  int steps = 0, ticks = 0, flushes = 0, parts_done = 0;
};

}  // namespace omni::testing
