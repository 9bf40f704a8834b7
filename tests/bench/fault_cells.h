// The faults of the matrix: what is done to a cluster, for how long, and how it is mended.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "tests/bench/fault_cluster.h"

namespace omni::bench {

// One time that a fault strikes.
struct Turn {
  int repetition = 0;
  std::string victim;  // a node; the workers in turn, or the coordinator that leads
  std::string other;   // the worker, or the coordinator, that it is not
};

struct FaultCell {
  std::string name, title;
  int coordinators = 1, etcd_members = 0;
  testing::NetworkOptions::Wires wires = testing::NetworkOptions::Wires::kBridge;
  int tokens = 150;  // of an answer
  std::chrono::milliseconds lasts{0};
  // What whoever coordinates (afterwards) logs when it notices; empty: there is nothing to notice.
  std::vector<std::string> noticed = {};
  absl::Status (*prepare)(FaultCluster&, const Turn&) = nullptr;  // just before; null: nothing
  absl::Status (*strike)(FaultCluster&, const Turn&) = nullptr;
  absl::Status (*mend)(FaultCluster&, const Turn&) = nullptr;
  // Bars of the worst; 0: none.
  double next_token_bar_ms = 0, longest_gap_bar_ms = 0;
};

const std::vector<FaultCell>& FaultCells();

}  // namespace omni::bench
