// Who is to own, to shadow and to take over each region: a function of what is known, without time or memory
// of its own.
//
// The coordinator's process serves what fits the memory that it offers, since a region that is near costs no
// round trip; what does not fit goes to the nodes that have joined, the busiest regions first, evenly by what
// they offer and by how near they are. A region stays where it is unless that is clearly worse.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cluster/frames.h"
#include "engine/base/ids.h"

namespace omni {

// Of a cluster's store: region/<number>.
struct RegionRecord {
  NodeId owner, shadow, target, pinned;  // empty: nobody
  bool operator==(const RegionRecord&) const = default;
};

struct PlacedNode {
  NodeId id;
  bool self = false;  // the coordinator's process: holds every region if it must, from its disk
  bool up = false;
  bool gone = false;  // down for so long that others take its place
  bool draining = false;
  uint64_t offered_bytes = 0;
  double rtt_us = 0;        // 0: not measured
  std::vector<bool> holds;  // by region
};

struct PlacedRegion {
  RegionRecord record;
  uint64_t bytes = 0;  // of its tiles, all layers
  double load = 0;     // share of the requests of late
};

struct PlacementOptions {
  int most_moves = 2;        // under way at once
  double hysteresis = 0.25;  // of a node's fair share: so much more load than that is borne
  bool rebalance = false;    // somebody asked for it: no hysteresis
  bool shadows = true;       // without: regions have an owner only, and a second copy is let go of
};

struct RegionChange {
  RegionId region;
  RegionRecord to;
  const char* why;  // of the log
  bool failover = false, migrated = false, cancelled = false;
};

// What is to be changed now: nothing, if all is as it should be or under way. A change is small enough to be
// one step of a migration:
//
//     target := node;   it fetches what it lacks;   owner := target, shadow := the owner before
//
// Applying the changes and asking again ends, as long as nothing else changes.
std::vector<RegionChange> NextChanges(const std::vector<PlacedNode>& nodes,
                                      const std::vector<PlacedRegion>& regions,
                                      const PlacementOptions& options);

}  // namespace omni
