// Calls about tasks, as verbs make them.
#pragma once

#include <stop_token>
#include <string>
#include <thread>

#include <absl/status/statusor.h>
#include <nlohmann/json.hpp>

#include "cluster/tasks/task_client.h"

namespace omni::cli {

std::string NewTaskKey();  // one for each thing that is handed in

// RemoteTasks::Call with values.
absl::StatusOr<nlohmann::json> CallTasks(RemoteTasks& remote, const char* method,
                                         const nlohmann::json& request);

// Requests a stop when somebody interrupts.
class StopAtInterrupt {
 public:
  StopAtInterrupt();
  std::stop_token token() const { return stop_.get_token(); }

 private:
  std::stop_source stop_;
  std::jthread thread_;  // goes first
};

}  // namespace omni::cli
