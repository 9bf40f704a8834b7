#include "cluster/cluster_link.h"

#include <algorithm>
#include <utility>

#include "engine/base/simulated.h"

namespace omni {

NodeLink* ClusterLink::Node(int32_t source) const {
  return source >= 0 ? placement_->nodes[static_cast<size_t>(source)].get() : nullptr;
}

void ClusterLink::FindCandidates(const Placement& placement) {
  candidates_.clear();
  const Placement::Region& region = placement.regions[region_.index()];
  if (region.owner == Placement::kSelf) {  // what is asked of this process is asked of nobody else
    candidates_.push_back(Placement::kSelf);
    return;
  }
  const auto add = [&](int32_t node) {
    if (node == Placement::kNobody) return;
    if (std::find(candidates_.begin(), candidates_.end(), node) == candidates_.end())
      candidates_.push_back(node);
  };
  add(region.owner);
  add(region.shadow);
  for (size_t i = 0; i < placement.nodes.size(); ++i) {
    if (placement.nodes[i] != nullptr && placement.nodes[i]->health().Holds(region_))
      add(static_cast<int32_t>(i));
  }
  add(Placement::kSelf);
  // Nobody who is down or has not all of it; those in doubt last.
  const auto rank = [&](int32_t node) {
    if (node == Placement::kSelf) return 1;
    NodeLink* link = placement.nodes[static_cast<size_t>(node)].get();
    if (link == nullptr) return 3;
    const NodeHealth& health = link->health();
    if (!health.up() || !health.Holds(region_)) return 3;
    return health.suspect() ? 2 : 0;
  };
  std::stable_sort(candidates_.begin(), candidates_.end(),
                   [&](int32_t a, int32_t b) { return rank(a) < rank(b); });
  while (rank(candidates_.back()) == 3) candidates_.pop_back();
}

void ClusterLink::Send(RegionRequestPtr request) {
  placement_ = routes_.Get();
  wake_ = Clock::time_point::max();
  if (placement_ == nullptr) {  // no cluster
    request_ = nullptr;
    local_->Send(std::move(request));
    return;
  }
  request_ = std::move(request);
  asked_ = 0;
  budget_.OnRequest();
  FindCandidates(*placement_);
  if (candidates_.front() != placement_->regions[region_.index()].owner) {
    OMNI_REACHED(kAskedElsewhereAtOnce);
    budget_.counters().failovers.Add(1);
  }
  AskNext(Now());
}

bool ClusterLink::AskNext(Clock::time_point now) {
  if (asked_ == candidates_.size()) return false;
  const int32_t source = candidates_[asked_++];
  asked_at_ = now;
  wake_ = Clock::time_point::max();
  if (NodeLink* node = Node(source)) {
    const HedgeOptions& o = budget_.options();
    const std::chrono::nanoseconds usual = node->health().Usual(request_->rows);
    std::chrono::nanoseconds wait = o.most;
    if (usual.count() > 0) {
      const auto times = static_cast<int64_t>(o.times_usual * static_cast<double>(usual.count()));
      wait = std::clamp<std::chrono::nanoseconds>(std::chrono::nanoseconds(times), o.least, o.most);
    }
    if (asked_ < candidates_.size() && o.enabled) wake_ = now + wait;
    node->Send(request_);
  } else {
    local_->Send(request_);
  }
  return true;
}

void ClusterLink::Flush() {
  if (request_ == nullptr || asked_ == 0) return;
  if (NodeLink* node = Node(candidates_[asked_ - 1])) {
    node->Flush();
  } else {
    local_->Flush();
  }
}

std::optional<ClusterLink::Clock::time_point> ClusterLink::WakeTime() const {
  if (request_ == nullptr || wake_ == Clock::time_point::max()) return std::nullopt;
  return wake_;
}

void ClusterLink::Wake(Clock::time_point now) {
  if (request_ == nullptr || now < wake_) return;
  bool silent = false;
  if (NodeLink* node = Node(candidates_[asked_ - 1])) {
    silent = node->health().heard() < asked_at_;
    if (silent) {
      OMNI_REACHED(kNodeSuspect);
      node->health().Suspect(now);
    }
  }
  // What has gone silent is not counted against those that are merely slow.
  if (!silent && !budget_.Take()) {
    OMNI_REACHED(kHedgeWithheld);
    budget_.counters().withheld.Add(1);
    wake_ = now + budget_.options().most;
    return;
  }
  if (!AskNext(now)) return;
  OMNI_REACHED(kHedgeSent);
  budget_.counters().sent.Add(1);
  Flush();
}

void ClusterLink::OnAnswered(const RegionReply& reply) {
  if (request_ == nullptr || reply.request_id != request_->id) return;
  if (asked_ > 1) {
    if (reply.source != candidates_.front()) {
      OMNI_REACHED(kHedgeWon);
      budget_.counters().won.Add(1);
    } else {
      budget_.counters().lost.Add(1);
    }
    for (size_t i = 0; i < asked_; ++i) {
      NodeLink* node = Node(candidates_[i]);
      if (node != nullptr && candidates_[i] != reply.source) node->Cancel(request_->id);
    }
  }
  request_ = nullptr;
}

void ClusterLink::Renew() {
  const bool local = placement_ == nullptr ||
                     (request_ != nullptr && asked_ > 0 && candidates_[asked_ - 1] == Placement::kSelf);
  if (local) local_->Renew();
  // Whoever was asked and has not answered in all that time is asked last. Who was asked just now may have
  // been about to.
  if (request_ != nullptr) {
    const Clock::time_point now = Now();
    const bool late = now - asked_at_ >= budget_.options().most;
    for (size_t i = 0; i < asked_; ++i) {
      NodeLink* node = Node(candidates_[i]);
      if (node == nullptr) continue;
      if (late && node->health().heard() < asked_at_) node->health().Suspect(now);
      node->Cancel(request_->id);
    }
  }
  request_ = nullptr;
}

void ClusterLink::Prefetch(LayerId layer, std::span<const ExpertId> experts, Foresight foresight) {
  const std::shared_ptr<const Placement> placement = routes_.Get();
  const int32_t owner = placement == nullptr ? Placement::kSelf : placement->regions[region_.index()].owner;
  if (owner == Placement::kSelf) {
    local_->Prefetch(layer, experts, foresight);
    return;
  }
  NodeLink* node = owner >= 0 ? placement->nodes[static_cast<size_t>(owner)].get() : nullptr;
  if (node != nullptr && node->health().up())
    node->Prefetch({region_, layer, {experts.begin(), experts.end()}, foresight});
}

}  // namespace omni
