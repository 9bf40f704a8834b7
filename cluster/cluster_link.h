// A region whose owner may be this process or a node elsewhere, with a second one that holds its tiles too.
//
// The first to be asked is the owner, or whoever of those that hold the region seems well. Where an answer
// takes several times as long as that node's answers to so many rows have taken of late, the next one is
// asked as well, and the first answer counts: both are the same bytes. A node that has said nothing at all
// since it was asked is then suspect, and asked last until it is heard again: a stopped process costs one
// such wait, not one a layer.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "actors/counters.h"
#include "actors/region_link.h"
#include "cluster/routes.h"

namespace omni {

struct HedgeOptions {
  bool enabled = true;                     // not: nobody else is asked as long as the node's connection holds
  double times_usual = 3;                  // the wait before somebody else is asked
  std::chrono::microseconds least{4'000};  // of it: what a busy machine's scheduler may take
  std::chrono::microseconds most{100'000};  // of it; also where nothing has been measured
  double share = 0.05;                      // of the requests may be asked of a second node
  double burst = 32;                        // beyond the share
  std::function<std::chrono::steady_clock::time_point()> now = &std::chrono::steady_clock::now;
};

// Written on the coordinator's thread, read by any.
struct HedgeCounters {
  // Of those sent: won, the one asked in addition answered first, and lost, the one before did after all; of
  // the others neither did, and they were asked again. Withheld: beyond the share.
  Counter sent, won, lost, withheld;
  Counter failovers;  // requests that went to another than the owner, since it was down or suspect
};

// How many more questions may be asked, over all links of a coordinator. One thread.
class HedgeBudget {
 public:
  explicit HedgeBudget(const HedgeOptions& options) : options_(options), tokens_(options.burst) {}
  void OnRequest() { tokens_ = std::min(options_.burst, tokens_ + options_.share); }
  bool Take() {
    if (tokens_ < 1) return false;
    tokens_ -= 1;
    return true;
  }
  const HedgeOptions& options() const { return options_; }
  HedgeCounters& counters() { return counters_; }
  const HedgeCounters& counters() const { return counters_; }

 private:
  const HedgeOptions options_;
  double tokens_;
  HedgeCounters counters_;
};

class ClusterLink : public RegionLink {
 public:
  using Clock = std::chrono::steady_clock;

  // `local` serves the region in this process. All references outlive the link.
  ClusterLink(RegionId region, std::shared_ptr<RegionLink> local, const Routes& routes, HedgeBudget& budget)
      : region_(region), local_(std::move(local)), routes_(routes), budget_(budget) {}

  void Send(RegionRequestPtr request) override;
  void Flush() override;
  void Prefetch(LayerId layer, std::span<const ExpertId> experts, Foresight foresight) override;
  void Renew() override;
  void OnAnswered(const RegionReply& reply) override;
  std::optional<Clock::time_point> WakeTime() const override;
  void Wake(Clock::time_point now) override;

 private:
  // Whoever may be asked, the best first.
  void FindCandidates(const Placement& placement);
  Clock::time_point Now() const { return budget_.options().now(); }
  bool AskNext(Clock::time_point now);
  NodeLink* Node(int32_t source) const;

  const RegionId region_;
  std::shared_ptr<RegionLink> local_;
  const Routes& routes_;
  HedgeBudget& budget_;
  std::shared_ptr<const Placement> placement_;  // by which the present request was sent
  RegionRequestPtr request_;                    // null: none is under way
  std::vector<int32_t> candidates_;             // for it; kSelf is the last
  size_t asked_ = 0;                            // of the candidates
  Clock::time_point asked_at_, wake_;           // wake_: max() if never
};

}  // namespace omni
