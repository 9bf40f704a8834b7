// All that a node does of tasks: what the served model says, and the programs that a file names.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "cluster/inference_backend.h"
#include "cluster/tasks/adapt_executor.h"
#include "cluster/tasks/make_executors.h"
#include "cluster/tasks/model_executor.h"

namespace omni {

class NodeExecutors {
 public:
  // A model that is served here.
  struct Served {
    InferenceBackend& backend;  // outlives the executors
    ModelExecutorOptions of_model;
    LearnerPlace learner;
    absl::StatusOr<AdapterFiles> adapters;  // where it keeps what it learns
  };
  // `served`: nothing: no model is. `config`: the file of programs (docs/executors.md); empty: none are run.
  // `folder`: of this node alone. Errors of the file name it.
  static absl::StatusOr<std::unique_ptr<NodeExecutors>> Make(std::optional<Served> served,
                                                             const std::string& config,
                                                             const std::string& folder);

  // As long as this lives. artifacts: null, if nothing here leaves any.
  std::vector<TaskExecutor*> all();
  const ArtifactStore* artifacts() const;

 private:
  NodeExecutors() = default;

  std::unique_ptr<ModelExecutor> model_;
  std::unique_ptr<AdaptExecutor> adapt_;
  std::unique_ptr<ProgramExecutors> programs_;
};

}  // namespace omni
