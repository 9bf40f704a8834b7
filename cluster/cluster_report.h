// All that there is to know of a cluster at a moment.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "cluster/cluster_state.h"

namespace omni {

struct PeerView {
  NodeId node;
  bool suspect = false;
  int64_t sent_bytes = 0, received_bytes = 0, requests = 0, answers = 0, refused = 0, connections = 0;
  std::chrono::nanoseconds rtt_p50{0}, rtt_p99{0};
};

struct ClusterReport {
  ClusterView view;
  std::vector<PeerView> peers;
  int64_t failovers = 0, migrations = 0, migrations_cancelled = 0;
  std::vector<uint64_t> region_bytes;
  std::vector<int64_t> region_requests;
  int64_t hedges_sent = 0, hedges_won = 0, hedges_lost = 0, hedges_withheld = 0;
  int64_t rerouted = 0;  // requests that went to another than the owner at once
  int64_t refused = 0;   // by nodes, since their epoch was another
};

}  // namespace omni
