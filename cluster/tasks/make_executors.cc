#include "cluster/tasks/make_executors.h"

#include <unistd.h>

#include <utility>

#include "cluster/tasks/acp_executor.h"
#include "cluster/tasks/command_executor.h"
#include "cluster/tasks/job_executor.h"
#include "cluster/tasks/zeroclaw_executor.h"
#include "engine/base/log.h"

namespace omni {
namespace {

// Beside the program in a build folder; installed where no shell looks for programs.
std::string ChildProgram(const std::string& programs) {
  const std::string beside = programs + "/omni-child";
  return ::access(beside.c_str(), X_OK) == 0 ? beside : programs + "/../libexec/omni/omni-child";
}

}  // namespace

absl::StatusOr<std::unique_ptr<ProgramExecutors>> ProgramExecutors::Make(const ExecutorConfig& config,
                                                                         const std::string& folder,
                                                                         const std::string& programs) {
  ChildPlace place{ChildProgram(programs), folder, config.control_group};
  const absl::StatusOr<int> left = EndLeftovers(place);
  if (!left.ok()) return left.status();
  if (*left > 0)
    LogWarning("task_leftovers_ended",
               "{processes} processes of tasks, left by an earlier server, were ended",
               {{"processes", *left}});
  absl::StatusOr<ArtifactStore> artifacts = ArtifactStore::Open(folder + "/artifacts");
  if (!artifacts.ok()) return artifacts.status();
  auto made =
      std::unique_ptr<ProgramExecutors>(new ProgramExecutors(std::move(place), *std::move(artifacts)));
  for (const auto& [name, program] : config.commands)
    made->executors_.push_back(
        std::make_unique<CommandExecutor>(name, program, made->place_, made->artifacts_));
  for (const auto& [name, agent] : config.agents) {
    if (agent.protocol == AgentConfig::Protocol::kAcp) {
      made->executors_.push_back(std::make_unique<AcpExecutor>(name, agent, made->place_));
    } else {
      made->executors_.push_back(std::make_unique<ZeroclawExecutor>(name, agent, made->place_));
    }
  }
  if (config.jobs.has_value())
    made->executors_.push_back(std::make_unique<JobExecutor>(*config.jobs, programs, made->place_));
  return made;
}

std::vector<TaskExecutor*> ProgramExecutors::executors() const {
  std::vector<TaskExecutor*> all;
  for (const auto& executor : executors_) all.push_back(executor.get());
  return all;
}

}  // namespace omni
