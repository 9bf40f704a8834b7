// All executors of a configuration, ready to be run.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "cluster/tasks/artifact_store.h"
#include "cluster/tasks/child_process.h"
#include "cluster/tasks/executor_config.h"
#include "cluster/tasks/task_executor.h"

namespace omni {

class ProgramExecutors {
 public:
  // folder: of this server alone, for what runs and what is kept. programs: where omni, omni-train and
  // omni-child are. First ends what an earlier server of the folder has left running.
  static absl::StatusOr<std::unique_ptr<ProgramExecutors>> Make(const ExecutorConfig& config,
                                                                const std::string& folder,
                                                                const std::string& programs);

  std::vector<TaskExecutor*> executors() const;  // as long as this lives
  const ArtifactStore& artifacts() const { return artifacts_; }

 private:
  ProgramExecutors(ChildPlace place, ArtifactStore artifacts)
      : place_(std::move(place)), artifacts_(std::move(artifacts)) {}

  const ChildPlace place_;
  const ArtifactStore artifacts_;
  std::vector<std::unique_ptr<TaskExecutor>> executors_;
};

}  // namespace omni
