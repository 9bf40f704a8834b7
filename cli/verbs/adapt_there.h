// Adapters that a server learns beside what it answers.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>

#include <absl/status/statusor.h>
#include <nlohmann/json.hpp>

#include "cluster/cluster_client.h"

namespace omni::cli {

// Of a text so long the last so many bytes are handed in: more than are learned from.
inline constexpr size_t kMostHandedIn = 480 << 10;

struct LearnThere {
  ClusterClientOptions server;
  std::string name;
  std::string_view text;
  std::chrono::milliseconds budget{0};
  bool more = false;
  double most_drift = 0;                         // share of the loss
  std::function<void(const std::string&)> tell;  // how far it is
};

// Hands it in as a task and watches that until it is over, whatever becomes of the connection and the server
// meanwhile. The result is AdaptExecutor's. Cancelled: somebody interrupted, and the task goes on; its
// message says how to see the rest. Aborted: the task was cancelled; else Unknown, with what the task failed
// by, or RemoteTasks's errors.
absl::StatusOr<nlohmann::json> LearnOnServer(const LearnThere& request);

}  // namespace omni::cli
