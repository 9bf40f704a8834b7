#include "cluster/tasks/task_calls.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "cluster/tasks/task_messages.h"

namespace omni {
namespace {

namespace pb = ::omni::tasks::v1;

constexpr uint32_t kPage = 50, kMostPage = 500;  // of which the longest are some 3 MiB: clients take 4

absl::Status List(const TaskReader& reader, const TaskClient& by, const TaskFilter& filter, uint32_t size,
                  const std::string& token, pb::ListTasksResponse& response) {
  const uint32_t most = size == 0 ? kPage : std::min(size, kMostPage);
  const absl::StatusOr<TaskPage> page = reader.List(by, filter, static_cast<int>(most), token);
  if (!page.ok()) return page.status();
  for (const TaskState& state : page->tasks) TellTask(state, *response.add_tasks());
  response.set_next_page_token(page->next);
  return absl::OkStatus();
}

}  // namespace

void SubmitTaskCall(TaskEngine& engine, const TaskClient& by, const pb::SubmitTaskRequest& request,
                    const std::string& field, pb::SubmitTaskResponse& response,
                    std::function<void(const absl::Status& status)> done) {
  absl::StatusOr<TaskSpec> spec = ReadSpec(request.spec(), field);
  if (!spec.ok()) return done(spec.status());
  engine.Submit({by.caller, request.idempotency_key(), *std::move(spec)},
                [&response, done = std::move(done)](absl::StatusOr<TaskSubmitted> submitted) {
                  if (submitted.ok()) {
                    TellTask(submitted->state, *response.mutable_task());
                    response.set_existed(submitted->again);
                  }
                  done(submitted.status());
                });
}

absl::Status GetTaskCall(const TaskReader& reader, const TaskClient& by, const pb::GetTaskRequest& request,
                         pb::Task& task) {
  const absl::StatusOr<TaskRecord> record = reader.FindRecord(by, request.id());
  if (!record.ok()) return record.status();
  const absl::StatusOr<TaskWork> work = reader.Work(by, request.id());
  if (!work.ok()) return work.status();
  TellTask(record->state, task);
  TellSpec(KeptSpec(*record, *work), *task.mutable_spec());
  *task.mutable_labels() = task.spec().labels();
  if (record->state.status != TaskStatus::kSucceeded) return absl::OkStatus();
  absl::StatusOr<std::string> result = reader.Result(by, request.id());
  if (result.ok()) task.set_result(*std::move(result));
  // It was handed in again meanwhile, which only one that has not succeeded can be.
  return absl::IsFailedPrecondition(result.status()) ? absl::OkStatus() : result.status();
}

absl::Status ListTasksCall(const TaskReader& reader, const TaskClient& by,
                           const pb::ListTasksRequest& request, pb::ListTasksResponse& response) {
  const absl::StatusOr<TaskFilter> filter = ReadFilter(request);
  if (!filter.ok()) return filter.status();
  return List(reader, by, *filter, request.page_size(), request.page_token(), response);
}

absl::Status ListDeadLettersCall(const TaskReader& reader, const TaskClient& by,
                                 const pb::ListDeadLettersRequest& request, pb::ListTasksResponse& response) {
  TaskFilter filter;
  filter.statuses = {TaskStatus::kFailed};
  return List(reader, by, filter, request.page_size(), request.page_token(), response);
}

void ListExecutorsCall(const std::vector<TaskPlaces>& places, pb::ListExecutorsResponse& response) {
  for (const TaskPlaces& place : places) {
    pb::Executor& executor = *response.add_executors();
    executor.set_executor(place.executor);
    executor.set_target(place.target);
    executor.set_node(place.node);
    executor.set_slots(place.slots);
    executor.set_running(place.running);
    executor.set_description(place.description);
  }
}

}  // namespace omni
