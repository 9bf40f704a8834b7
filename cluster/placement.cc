#include "cluster/placement.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace omni {
namespace {

// One question to NextChanges.
class Planner {
 public:
  Planner(const std::vector<PlacedNode>& nodes, const std::vector<PlacedRegion>& regions,
          const PlacementOptions& options)
      : nodes_(nodes), regions_(regions), options_(options), used_(nodes.size()), load_(nodes.size()) {
    for (const PlacedRegion& region : regions) {
      for (const NodeId* id : {&region.record.owner, &region.record.shadow, &region.record.target}) {
        if (const int node = Find(*id); node >= 0) used_[Index(node)] += region.bytes;
      }
      if (const int owner = Find(region.record.owner); owner >= 0) load_[Index(owner)] += region.load;
      moves_ += region.record.target.value.empty() ? 0 : 1;
    }
  }

  std::vector<RegionChange> Plan() {
    for (size_t r = 0; r < regions_.size(); ++r) Repair(r);
    if (!changes_.empty()) return std::move(changes_);
    Move();
    if (!changes_.empty()) return std::move(changes_);
    for (size_t r = 0; options_.shadows && r < regions_.size(); ++r) FindShadow(r);
    return std::move(changes_);
  }

 private:
  static size_t Index(int node) { return static_cast<size_t>(node); }
  int Find(const NodeId& id) const {
    if (id.value.empty()) return -1;
    for (size_t i = 0; i < nodes_.size(); ++i) {
      if (nodes_[i].id == id) return static_cast<int>(i);
    }
    return -1;
  }
  int Self() const {
    for (size_t i = 0; i < nodes_.size(); ++i) {
      if (nodes_[i].self) return static_cast<int>(i);
    }
    return -1;
  }
  bool Holds(int node, size_t region) const {
    return node >= 0 && nodes_[Index(node)].up &&
           (nodes_[Index(node)].self || nodes_[Index(node)].holds[region]);
  }
  bool Serving(int node) const { return node >= 0 && !nodes_[Index(node)].gone; }
  void Change(size_t region, RegionRecord to, const char* why, bool failover = false, bool migrated = false,
              bool cancelled = false) {
    changes_.push_back(
        {RegionId(static_cast<int32_t>(region)), std::move(to), why, failover, migrated, cancelled});
  }

  // What has failed is mended, and what has come to its end is recorded.
  void Repair(size_t r) {
    const RegionRecord& now = regions_[r].record;
    RegionRecord to = now;
    const int owner = Find(now.owner), shadow = Find(now.shadow), target = Find(now.target);
    bool failover = false, migrated = false, cancelled = false;
    const char* why = "";
    if (!now.target.value.empty() && (!Serving(target) || now.target == now.owner)) {
      to.target = {};
      cancelled = true;
      why = "the node it was moving to is gone";
    } else if (Holds(target, r)) {
      to.owner = now.target;
      to.target = {};
      const bool keeps = options_.shadows && owner >= 0 && Serving(owner) && !nodes_[Index(owner)].draining &&
                         !nodes_[Index(owner)].self;
      if (keeps) {
        to.shadow = now.owner;
      } else if (to.shadow == to.owner) {
        to.shadow = {};
      }
      migrated = true;
      why = "it has moved";
    }
    if (!Serving(Find(to.owner))) {
      const int next = Successor(r, Find(to.owner), shadow);
      failover = !to.owner.value.empty();
      to.owner = nodes_[Index(next)].id;
      if (to.shadow == to.owner) to.shadow = {};
      if (to.target == to.owner) to.target = {};
      why = "its owner is gone";
    }
    if (!to.shadow.value.empty()) {
      const int s = Find(to.shadow);
      if (!Serving(s) || nodes_[Index(s)].draining || to.shadow == to.owner) {
        to.shadow = {};
        if (*why == 0) why = "its shadow is gone";
      } else if (!options_.shadows) {
        to.shadow = {};
        if (*why == 0) why = "regions are to have no shadows";
      }
    }
    if (to != now) Change(r, std::move(to), why, failover, migrated, cancelled);
  }

  // The shadow, else whoever has all of it, else this process's disk.
  int Successor(size_t r, int owner, int shadow) const {
    if (shadow != owner && Serving(shadow) && Holds(shadow, r)) return shadow;
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const int node = static_cast<int>(i);
      if (node != owner && !nodes_[i].self && !nodes_[i].draining && Serving(node) && Holds(node, r))
        return node;
    }
    return Self();
  }

  bool Fits(int node, size_t r) const {
    return used_[Index(node)] + regions_[r].bytes <= nodes_[Index(node)].offered_bytes;
  }
  bool Takes(int node) const {
    return nodes_[Index(node)].up && !nodes_[Index(node)].gone && !nodes_[Index(node)].draining;
  }

  // Of what is to be away from this process, the share of a node.
  double FairShare(int node, double total) const {
    double offered = 0;
    for (const PlacedNode& n : nodes_) {
      if (!n.self && n.up && !n.gone && !n.draining) offered += static_cast<double>(n.offered_bytes);
    }
    return offered > 0 ? total * static_cast<double>(nodes_[Index(node)].offered_bytes) / offered : 0;
  }

  void Move() {
    const int self = Self();
    // The pinned are as their people want them.
    for (size_t r = 0; r < regions_.size() && moves_ < options_.most_moves; ++r) {
      const RegionRecord& now = regions_[r].record;
      const int pinned = Find(now.pinned);
      if (pinned >= 0 && Takes(pinned) && now.target.value.empty() && now.owner != now.pinned)
        Begin(r, pinned, "it was placed by hand");
    }
    // Away from nodes that are drained.
    for (size_t r = 0; r < regions_.size() && moves_ < options_.most_moves; ++r) {
      const RegionRecord& now = regions_[r].record;
      const int owner = Find(now.owner);
      if (!now.target.value.empty() || Begun(r) || owner < 0 || !nodes_[Index(owner)].draining) continue;
      const int to = Best(r, owner);
      if (to < 0 && MakeRoom(r, owner)) continue;
      Begin(r, to >= 0 ? to : self, "its owner is drained");
    }
    // What does not fit this process: the busiest stay.
    std::vector<size_t> own;
    uint64_t bytes = 0;
    for (size_t r = 0; r < regions_.size(); ++r) {
      if (Find(regions_[r].record.owner) != self || !regions_[r].record.target.value.empty() || Begun(r))
        continue;
      own.push_back(r);
      bytes += regions_[r].bytes;
    }
    std::stable_sort(own.begin(), own.end(),
                     [&](size_t a, size_t b) { return regions_[a].load < regions_[b].load; });
    for (size_t r : own) {
      if (moves_ >= options_.most_moves || bytes <= nodes_[Index(self)].offered_bytes) break;
      if (regions_[r].record.pinned == nodes_[Index(self)].id) continue;
      const int to = Best(r, self);
      if (to < 0) {
        MakeRoom(r, self);
        break;
      }
      bytes -= regions_[r].bytes;
      Begin(r, to, "it does not fit the coordinator");
    }
    Balance(self);
  }

  // From the node that has most beyond its share to the one that lacks most.
  void Balance(int self) {
    double away = 0;
    int regions_away = 0;
    for (size_t r = 0; r < regions_.size(); ++r) {
      if (Find(regions_[r].record.owner) == self) continue;
      away += regions_[r].load;
      ++regions_away;
      if (!regions_[r].record.target.value.empty()) return;  // the loads will change
    }
    if (regions_away == 0 || away <= 0) return;
    while (moves_ < options_.most_moves) {
      int most = -1, least = -1;
      double beyond = 0, lacking = 0;
      for (size_t i = 0; i < nodes_.size(); ++i) {
        const int node = static_cast<int>(i);
        if (nodes_[i].self || !Takes(node)) continue;
        const double d = load_[i] - FairShare(node, away);
        if (d > beyond) beyond = d, most = node;
        if (-d > lacking) lacking = -d, least = node;
      }
      if (most < 0 || least < 0) return;
      const double fair = FairShare(most, away);
      if (!options_.rebalance && beyond < options_.hysteresis * fair) return;
      // The largest that makes both better off.
      size_t best = regions_.size();
      for (size_t r = 0; r < regions_.size(); ++r) {
        const PlacedRegion& region = regions_[r];
        if (Find(region.record.owner) != most || !region.record.pinned.value.empty() || Begun(r)) continue;
        // Better by so much that it is not worth moving back, however the sums are rounded.
        if (region.load <= 0 || region.load >= 0.95 * (beyond + lacking) || !Fits(least, r)) continue;
        if (region.load > beyond * 1.5) continue;
        if (best == regions_.size() || region.load > regions_[best].load) best = r;
      }
      if (best == regions_.size()) return;
      Begin(best, least, "its owner has more than its share");
    }
  }

  bool Begun(size_t r) const {
    return std::any_of(changes_.begin(), changes_.end(),
                       [&](const RegionChange& c) { return c.region.index() == r; });
  }

  // The node with room for the region whose load, for what it offers and how near it is, is least.
  int Best(size_t r, int except) const {
    int best = -1;
    double least = 0;
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const int node = static_cast<int>(i);
      if (node == except || nodes_[i].self || !Takes(node)) continue;
      // It has a place there already if it is the shadow.
      if (Find(regions_[r].record.shadow) != node && !Fits(node, r)) continue;
      const double near = 1 + nodes_[i].rtt_us / 1000;
      const double cost = (load_[i] + std::max(regions_[r].load, 1e-6)) * near /
                          std::max(1.0, static_cast<double>(nodes_[i].offered_bytes));
      if (best < 0 || cost < least) best = node, least = cost;
    }
    return best;
  }

  // Whether a node's shadows, of which one after another goes, have made room for the region.
  bool MakeRoom(size_t r, int except) {
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const int node = static_cast<int>(i);
      if (node == except || nodes_[i].self || !Takes(node)) continue;
      const auto yields = [&](size_t s) {
        return regions_[s].record.shadow == nodes_[i].id && regions_[s].record.target.value.empty() &&
               !Begun(s);
      };
      uint64_t shadows = 0;
      for (size_t s = 0; s < regions_.size(); ++s) shadows += yields(s) ? regions_[s].bytes : 0;
      if (used_[i] - shadows + regions_[r].bytes > nodes_[i].offered_bytes) continue;
      for (size_t s = 0; s < regions_.size() && !Fits(node, r); ++s) {
        if (!yields(s)) continue;
        RegionRecord to = regions_[s].record;
        to.shadow = {};
        used_[i] -= regions_[s].bytes;
        Change(s, std::move(to), "its shadow makes room for an owner");
      }
      return true;
    }
    return false;
  }

  void Begin(size_t r, int to, const char* why) {
    RegionRecord record = regions_[r].record;
    record.target = nodes_[Index(to)].id;
    used_[Index(to)] += regions_[r].bytes;
    if (const int owner = Find(record.owner); owner >= 0) load_[Index(owner)] -= regions_[r].load;
    load_[Index(to)] += regions_[r].load;
    ++moves_;
    Change(r, std::move(record), why);
  }

  // Whoever has room and is not the owner. This process needs not be one: it is asked last in any case.
  void FindShadow(size_t r) {
    const RegionRecord& now = regions_[r].record;
    if (!now.shadow.value.empty() || !now.target.value.empty() || Find(now.owner) == Self()) return;
    int best = -1;
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const int node = static_cast<int>(i);
      if (nodes_[i].self || nodes_[i].id == now.owner || !Takes(node) || !Fits(node, r)) continue;
      const auto room = [&](int n) {
        return static_cast<double>(used_[Index(n)]) / static_cast<double>(nodes_[Index(n)].offered_bytes);
      };
      if (best < 0 || room(node) < room(best)) best = node;
    }
    if (best < 0) return;
    used_[Index(best)] += regions_[r].bytes;
    RegionRecord to = now;
    to.shadow = nodes_[Index(best)].id;
    Change(r, std::move(to), "it has a shadow");
  }

  const std::vector<PlacedNode>& nodes_;
  const std::vector<PlacedRegion>& regions_;
  const PlacementOptions& options_;
  std::vector<uint64_t> used_;  // by node: as owner, shadow or target
  std::vector<double> load_;    // by node: as owner
  int moves_ = 0;
  std::vector<RegionChange> changes_;
};

}  // namespace

std::vector<RegionChange> NextChanges(const std::vector<PlacedNode>& nodes,
                                      const std::vector<PlacedRegion>& regions,
                                      const PlacementOptions& options) {
  return Planner(nodes, regions, options).Plan();
}

}  // namespace omni
