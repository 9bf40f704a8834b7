// What those calls of omni.tasks.v1.SwarmTasks do that come in by more than one protocol: messages in,
// messages out, whoever carries them. After an error `task` or `response` means nothing.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "actors/task/task_engine.h"
#include "cluster/tasks/task_places.h"
#include "omni/tasks/v1/tasks.pb.h"

namespace omni {

// `done` is called once, of any thread, when `response` tells of the task that was accepted, or of the one
// that was with the same key; till then it must be there. `field`: what errors of the spec begin with.
void SubmitTaskCall(TaskEngine& engine, const TaskClient& by, const tasks::v1::SubmitTaskRequest& request,
                    const std::string& field, tasks::v1::SubmitTaskResponse& response,
                    std::function<void(const absl::Status& status)> done);

// These wait for the disk. Errors: the reader's.
absl::Status GetTaskCall(const TaskReader& reader, const TaskClient& by,
                         const tasks::v1::GetTaskRequest& request, tasks::v1::Task& task);
absl::Status ListTasksCall(const TaskReader& reader, const TaskClient& by,
                           const tasks::v1::ListTasksRequest& request,
                           tasks::v1::ListTasksResponse& response);
absl::Status ListDeadLettersCall(const TaskReader& reader, const TaskClient& by,
                                 const tasks::v1::ListDeadLettersRequest& request,
                                 tasks::v1::ListTasksResponse& response);

void ListExecutorsCall(const std::vector<TaskPlaces>& places, tasks::v1::ListExecutorsResponse& response);

}  // namespace omni
