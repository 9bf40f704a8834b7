// omni.tasks.v1's messages and what the task engine has: what comes over a wire is checked here, as far as
// only the messages show it; the rest is the engine's (actors/task/check_task.h).
#pragma once

#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/task/task.h"
#include "actors/task/task_reader.h"
#include "actors/task/task_record.h"
#include "omni/tasks/v1/tasks.pb.h"

namespace omni {

// Errors of all that is read: InvalidArgument, which begins with the field, as "spec.retry.first_wait".
//
// The executor's input is the Work in bytes that are the same for the same work, so that an idempotency key
// finds it again; of a fan-out there is none, but children. Unknown fields are left out.
absl::StatusOr<TaskSpec> ReadSpec(const tasks::v1::TaskSpec& spec, const std::string& field = "spec");
absl::StatusOr<TaskSchedule> ReadSchedule(const tasks::v1::Schedule& schedule, const std::string& caller);
absl::StatusOr<TaskFilter> ReadFilter(const tasks::v1::ListTasksRequest& request);

void TellTask(const TaskState& state, tasks::v1::Task& task);
void TellEvent(const TaskId& id, const TaskEvent& event, tasks::v1::TaskEvent& message);
void TellSpec(const TaskSpec& spec, tasks::v1::TaskSpec& message);
// What was handed in, as far as it is kept: without its children and the time before which it was not begun.
TaskSpec KeptSpec(const TaskRecord& record, const TaskWork& work);
void TellSchedule(const TaskSchedule& schedule, tasks::v1::Schedule& message);

// Of what a server said; a kind or status that this program does not know is an InvalidArgument.
absl::StatusOr<TaskEvent> ReadEvent(const tasks::v1::TaskEvent& message);

}  // namespace omni
