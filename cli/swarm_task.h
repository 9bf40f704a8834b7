// A task that an agent of ZeroClaw does here, as tasks of a server are done
// (cluster/tasks/zeroclaw_executor.h).
#pragma once

#include <functional>
#include <string>

#include <absl/status/statusor.h>

#include "cli/verb.h"

namespace omni::cli {

class SwarmTaskFlags {
 public:
  // --swarm-task, --zeroclaw-bin, --zeroclaw-alias and --swarm-workspace.
  void Add(Verb& verb);
  // Whether there is a task, or only what goes with one; UsageError: only that was typed, or what has no part
  // in a task was typed, too.
  absl::StatusOr<bool> Given() const;

  // Prints what the agent says, and returns the exit code. Errors: it failed, or could not be run.
  absl::StatusOr<int> Run() const;

 private:
  std::string task_, program_ = "zeroclaw", alias_ = "default", workspace_;
  std::function<std::string(bool own)> typed_;  // the first flag on the command line, of these or the others
};

}  // namespace omni::cli
