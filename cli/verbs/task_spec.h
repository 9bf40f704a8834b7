// What omni task is told on its command line, as a task that can be handed in.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <nlohmann/json.hpp>

namespace omni::cli {

struct TaskSpecFlags {
  std::string file, message, session, context;
  std::vector<std::string> labels;  // NAME=VALUE
  int64_t max_tokens = 0, priority = 0, attempts = 0;
  std::chrono::milliseconds timeout{0}, delay{0};
};

// An omni.tasks.v1.TaskSpec in protobuf's JSON: what `words` say after "submit" (model TEXT, command PROGRAM
// ARGUMENTS…, agent NAME, job VERB ARGUMENTS…), or what the file has; the flags add to it. A usage error says
// what would do.
absl::StatusOr<nlohmann::json> TaskSpecJson(const std::vector<std::string>& words,
                                            const TaskSpecFlags& flags);

}  // namespace omni::cli
