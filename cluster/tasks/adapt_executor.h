// Tasks in which the served model learns an adapter (docs/adaptation.md).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "cluster/inference_backend.h"
#include "cluster/tasks/adapter_learner.h"
#include "cluster/tasks/task_executor.h"

namespace omni {

// One at a time. The result is AdaptReportJson with the adapter's name, whether it was saved, the model's
// hash, and what was waited for others. An attempt that is lost begins anew: what it had learned is not kept.
class AdaptExecutor final : public TaskExecutor {
 public:
  // The backend outlives it. `files`: an error is that of every task.
  AdaptExecutor(InferenceBackend& backend, LearnerPlace place, const absl::StatusOr<AdapterFiles>& files);

  std::vector<Offer> offers() const override;
  int slots() const override { return 1; }
  bool ready() const override { return backend_.Serving().ok(); }
  TaskOutcome Run(TaskAttempt& attempt) override;

 private:
  InferenceBackend& backend_;
  const std::string model_hash_;
  const absl::Status files_status_;
  std::optional<AdapterLearner> learner_;  // if that is OK
};

}  // namespace omni
