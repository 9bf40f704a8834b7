// The coordinator's world as a test moves it.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <optional>
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
    void OnAnswered(const RegionReply& reply) override { world_.answered.push_back(reply.request_id); }
    std::optional<std::chrono::steady_clock::time_point> WakeTime() const override {
      return world_.wake_time;
    }
    void Wake(std::chrono::steady_clock::time_point) override { world_.woken.push_back(region_); }

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

  std::optional<std::chrono::steady_clock::time_point> wake_time;  // that every link wants
  std::vector<std::chrono::steady_clock::time_point> wakes;        // that the state wants
  std::vector<RegionId> woken;
  std::vector<uint64_t> answered;  // requests whose links were told
  std::deque<RegionRequestPtr> requests;
  std::vector<RegionId> renewed;
  std::vector<std::pair<LayerId, std::vector<ExpertId>>> expected;
  std::vector<Foresight> foresight;  // of those in `expected`
  int steps = 0, ticks = 0, flushes = 0, parts_done = 0;
};

}  // namespace omni::testing
