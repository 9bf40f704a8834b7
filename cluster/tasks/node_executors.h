// All that a node does of tasks: what the served model says, and the programs that a file names.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "cluster/inference_backend.h"
#include "cluster/tasks/make_executors.h"
#include "cluster/tasks/model_executor.h"

namespace omni {

class NodeExecutors {
 public:
  // `config`: the file of programs (docs/executors.md); empty: none are run. `folder`: of this node alone.
  // Errors of the file name it. The backend outlives this; null: no model is served here.
  static absl::StatusOr<std::unique_ptr<NodeExecutors>> Make(InferenceBackend* backend,
                                                             ModelExecutorOptions of_model,
                                                             const std::string& config,
                                                             const std::string& folder);

  // As long as this lives. artifacts: null, if nothing here leaves any.
  std::vector<TaskExecutor*> all();
  const ArtifactStore* artifacts() const;

 private:
  NodeExecutors() = default;

  std::unique_ptr<ModelExecutor> model_;
  std::unique_ptr<ProgramExecutors> programs_;
};

}  // namespace omni
