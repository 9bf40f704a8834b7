// The records of a cluster in its coordination store: keys, and values as JSON.
//
//     cluster         what the cluster is: its name, its model, how the torus is cut
//     leader          which coordinator leads, with its lease; the revision at which it was made is the term
//     node/<id>       a node that has joined
//     region/<0000>   who has a region; the revision of its last change is the region's epoch
//     loads           how the requests of late were spread over the regions
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "cluster/placement.h"

namespace omni {

// All of them begin alike: what else is in the store, such as the log of sessions, can be much and is not
// read with them.
inline constexpr char kClusterPrefix[] = "swarm/", kClusterKey[] = "swarm/identity",
                      kLeaderKey[] = "swarm/leader", kNodePrefix[] = "swarm/node/",
                      kRegionPrefix[] = "swarm/region/", kLoadsKey[] = "swarm/loads";

struct ClusterRecord {
  std::string name, model_hash;
  int32_t regions = 0;
  // The oldest of the program that founded the cluster, so that the one before can lead it too; whoever
  // speaks it keeps it.
  uint32_t protocol = kClusterProtocols.oldest;
  // Drawn when the records are made: those of a cluster that was made anew, whose revisions and terms begin
  // again, are told apart from what a leader of the one before says.
  std::string id = {};
  bool operator==(const ClusterRecord&) const = default;
};

struct LeaderRecord {
  NodeId node;
  std::string address;
  std::string token = {};  // of the state folder by which it leads (state_holder.h); empty: of none
};

struct NodeRecord {
  std::string address;
  uint64_t offered_bytes = 0;
  bool draining = false;
  bool operator==(const NodeRecord&) const = default;
};

// By region: its share of the requests, 0 … 1.
using LoadsRecord = std::vector<double>;

std::string NodeKey(const NodeId& node);
std::string RegionKey(RegionId region);
absl::StatusOr<RegionId> RegionOfKey(std::string_view key);  // of one that begins with kRegionPrefix

std::string ToJson(const ClusterRecord& record);
std::string ToJson(const LeaderRecord& record);
std::string ToJson(const NodeRecord& record);
std::string ToJson(const RegionRecord& record);
std::string ToJson(const LoadsRecord& record);
// DataLoss: it is none, or of a later program.
absl::StatusOr<ClusterRecord> ParseClusterRecord(std::string_view json);
absl::StatusOr<LeaderRecord> ParseLeaderRecord(std::string_view json);
absl::StatusOr<NodeRecord> ParseNodeRecord(std::string_view json);
absl::StatusOr<RegionRecord> ParseRegionRecord(std::string_view json);
absl::StatusOr<LoadsRecord> ParseLoadsRecord(std::string_view json);

}  // namespace omni
