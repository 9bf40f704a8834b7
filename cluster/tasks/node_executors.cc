#include "cluster/tasks/node_executors.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "cluster/tasks/executor_config.h"

namespace omni {
namespace {

// Where this program lies, and with it those that it starts.
std::string OwnFolder() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path().string();
}

}  // namespace

absl::StatusOr<std::unique_ptr<NodeExecutors>> NodeExecutors::Make(std::optional<Served> served,
                                                                   const std::string& config,
                                                                   const std::string& folder) {
  std::unique_ptr<NodeExecutors> executors(new NodeExecutors());
  if (served.has_value()) {
    executors->model_ = std::make_unique<ModelExecutor>(served->backend, std::move(served->of_model));
    executors->adapt_ =
        std::make_unique<AdaptExecutor>(served->backend, std::move(served->learner), served->adapters);
  }
  if (config.empty()) return executors;
  const absl::StatusOr<ExecutorConfig> read = LoadExecutorConfig(config);
  if (!read.ok()) return read.status();
  absl::StatusOr<std::unique_ptr<ProgramExecutors>> made = ProgramExecutors::Make(*read, folder, OwnFolder());
  if (!made.ok()) return made.status();
  executors->programs_ = *std::move(made);
  return executors;
}

std::vector<TaskExecutor*> NodeExecutors::all() {
  std::vector<TaskExecutor*> all;
  if (model_ != nullptr) all.push_back(model_.get());
  if (adapt_ != nullptr) all.push_back(adapt_.get());
  if (programs_ != nullptr)
    for (TaskExecutor* executor : programs_->executors()) all.push_back(executor);
  return all;
}

const ArtifactStore* NodeExecutors::artifacts() const {
  return programs_ == nullptr ? nullptr : &programs_->artifacts();
}

}  // namespace omni
