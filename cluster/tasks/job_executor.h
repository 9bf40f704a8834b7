// Tasks that omni's own programs do: train, eval, pack.
#pragma once

#include <string>
#include <vector>

#include <absl/status/status.h>

#include "cluster/tasks/executor_config.h"
#include "cluster/tasks/task_executor.h"

namespace omni {

// Whether all that looks like a path among a program's arguments is below one of the folders, links followed;
// relative ones begin at `folder`, which is one of them. A word looks like one if it has a slash, or is "."
// or ".."; of lists with commas, colons or semicolons, and of FLAG=VALUE, each part does. InvalidArgument.
absl::Status CheckArguments(const std::vector<std::string>& arguments,
                            const std::vector<std::string>& folders, const std::string& folder);

// The verbs are its targets. Output is the streams "stdout" and "stderr", the result as of a command.
class JobExecutor final : public TaskExecutor {
 public:
  // programs: the folder of omni and omni-train. `place` outlives it.
  JobExecutor(JobConfig jobs, std::string programs, const ChildPlace& place);
  std::vector<Offer> offers() const override;
  int slots() const override { return jobs_.program.slots; }
  TaskOutcome Run(TaskAttempt& attempt) override;

 private:
  const JobConfig jobs_;
  const std::string programs_;
  const ChildPlace& place_;
};

}  // namespace omni
