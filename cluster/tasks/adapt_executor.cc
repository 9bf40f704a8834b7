#include "cluster/tasks/adapt_executor.h"

#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "engine/around/adapt_report.h"
#include "engine/base/json.h"
#include "omni/tasks/v1/tasks.pb.h"

namespace omni {
namespace {

TaskOutcome FailedBy(const absl::Status& status) {
  const std::string message(status.message());
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kNotFound:
      return TaskOutcome::Failed(kErrorInvalid, message);
    case absl::StatusCode::kResourceExhausted:
      return TaskOutcome::Failed("busy", message);
    default:
      return TaskOutcome::Failed("adapt", message);
  }
}

LearnRequest RequestOf(const omni::tasks::v1::AdaptWork& work, const std::string& caller) {
  LearnRequest request;
  request.caller = caller;
  request.name = work.name();
  request.text = work.text();
  request.more = work.more();
  if (work.has_drift()) request.most_drift = work.drift();
  if (work.has_budget()) {
    request.budget = std::chrono::seconds(work.budget().seconds()) +
                     std::chrono::milliseconds(work.budget().nanos() / 1'000'000);
  }
  return request;
}

}  // namespace

AdaptExecutor::AdaptExecutor(InferenceBackend& backend, LearnerPlace place,
                             const absl::StatusOr<AdapterFiles>& files)
    : backend_(backend), model_hash_(place.model_hash), files_status_(files.status()) {
  if (files.ok()) learner_.emplace(std::move(place), *files);
}

std::vector<TaskExecutor::Offer> AdaptExecutor::offers() const {
  return {{{"adapt", ""}, "learns adapters of the model that is served, while it answers nobody"}};
}

TaskOutcome AdaptExecutor::Run(TaskAttempt& attempt) {
  omni::tasks::v1::Work work;
  if (!work.ParseFromString(attempt.task().work.input) || !work.has_adapt())
    return TaskOutcome::Failed(kErrorInvalid, "the task's work is no adapter to learn");
  if (!files_status_.ok()) return FailedBy(files_status_);
  // Where another node leads now, it goes on.
  const auto stopped = [&] { return attempt.stop() != TaskAttempt::Stop::kNo || !backend_.Serving().ok(); };
  const absl::StatusOr<AdapterLearner::Learned> learned =
      learner_->Learn(RequestOf(work.adapt(), attempt.task().state.caller), stopped,
                      [&](const std::string& text) { attempt.Progress(text); });
  if (absl::IsCancelled(learned.status())) return StoppedOutcome(attempt.stop());
  if (!learned.ok()) return FailedBy(learned.status());
  nlohmann::json result = AdaptReportJson(learned->report);
  result["name"] = learned->name;
  result["saved"] = learned->report.kept;
  result["model_hash"] = model_hash_;
  if (!learned->hash.empty()) result["hash"] = learned->hash;
  result["waited_seconds"] = static_cast<double>(learned->waited.count()) / 1000;
  return TaskOutcome::Succeeded(JsonText(result));
}

}  // namespace omni
