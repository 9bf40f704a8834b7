// What may be handed in.
#pragma once

#include <absl/status/status.h>

#include "actors/task/task.h"
#include "actors/task/task_ledger.h"

namespace omni {

// InvalidArgument: names the field, what is wrong with it, and what is allowed.
absl::Status CheckTask(const TaskSubmission& submission, const TaskLimits& limits);
// The same of whoever is to be told of a task's events.
absl::Status CheckPush(const TaskPush& push, const TaskLimits& limits);

}  // namespace omni
