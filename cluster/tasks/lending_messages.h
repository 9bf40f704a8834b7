// omni.tasks.v1.TaskLending's messages and what the task engine and executors have. Both sides are nodes.
#pragma once

#include "actors/task/task_ledger.h"
#include "omni/tasks/v1/lending.pb.h"

namespace omni {

void TellAssignment(const TaskAssignment& given, tasks::v1::TakeResponse::Task& message);
// Of its state what executors see. Its deadline, if it has one, is told as from the state's `updated`.
TaskAssignment ReadAssignment(const tasks::v1::TakeResponse::Task& message);

void TellReport(const TaskReport& report, tasks::v1::Report& message);
// A kind that no executor may report is what the engine refuses.
TaskReport ReadReport(const tasks::v1::Report& message);

}  // namespace omni
