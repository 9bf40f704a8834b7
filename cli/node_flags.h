// Flags of the verbs that run a node of a cluster.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include <absl/status/statusor.h>

#include "cli/device_flags.h"
#include "cli/verb.h"
#include "cluster/cluster_node.h"

namespace omni::cli {

class NodeFlags {
 public:
  std::string join, etcd, state, cluster = "omni";
  int64_t threads = 0, offer_ram = 0;

  // All but the model's and those that say where it listens.
  void Add(Verb& verb);
  // What they say of the model `given` with -m and a node that listens at `listen`, the value of the flag
  // `listen_flag`. The state directory is left alone where --state is not given.
  absl::StatusOr<ClusterNodeOptions> Options(const std::string& given, const std::string& listen_flag,
                                             const std::string& listen) const;

 private:
  std::string advertise, name, durable = "local", certificates, executors, polytopes, memory, adapters;
  std::chrono::milliseconds keep_answers = std::chrono::minutes(10);
  int64_t shadows = 1, hedge = 5;
  DeviceFlags device;
  bool allow_plain = false;
  std::optional<bool> log_requests;
};

}  // namespace omni::cli
