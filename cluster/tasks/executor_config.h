// What programs a node runs for tasks: a file that docs/executors.md describes.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cluster/tasks/child_process.h"

namespace omni {

struct ProgramConfig {
  std::vector<std::string> argv;  // what a task's arguments come after; argv[0] is absolute
  std::string description;
  int slots = 1;
  std::map<std::string, std::string> environment;  // that it gets
  std::set<std::string> task_environment;          // names that a task may set
  int64_t arguments = 64;                          // of a task, at most
  ChildLimits limits;
  int64_t output_bytes = 16 << 20;                      // of all its streams
  bool drop_output = false;                             // what is more; else it is ended
  int64_t artifacts = 100, artifact_bytes = 256 << 20;  // files, all of them together
};

struct AgentConfig {
  enum class Protocol { kAcp, kZeroclaw } protocol = Protocol::kAcp;
  ProgramConfig program;
  std::string workspace;  // the folder that it works in; empty: one of the attempt's own
  std::string alias;      // of ZeroClaw's agents
  std::string provider, model;
  bool allow = false;  // what it asks permission for
  bool files = false;  // it may have files of its folder read and written for it
};

struct JobConfig {
  ProgramConfig program;  // argv is empty
  std::set<std::string> verbs;
  std::vector<std::string> folders;  // that arguments may name files of
};

struct ExecutorConfig {
  std::map<std::string, ProgramConfig> commands;
  std::map<std::string, AgentConfig> agents;
  std::optional<JobConfig> jobs;
  std::string control_group;
};

// InvalidArgument: says where and what is wrong; a key that nobody knows is.
absl::StatusOr<ExecutorConfig> ParseExecutorConfig(std::string_view text);
absl::StatusOr<ExecutorConfig> LoadExecutorConfig(const std::string& path);

}  // namespace omni
