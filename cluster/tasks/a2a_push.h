// Push notifications in the Agent2Agent protocol's words: who is told.
#pragma once

#include <absl/status/statusor.h>
#include <third_party/a2a.pb.h>

#include "actors/task/task_record.h"
#include "cluster/tasks/push_target.h"

namespace omni {

namespace a2a = ::lf::a2a::v1;

// Without an id it has its task's. `told` is that nothing was told yet. A2aStatus's errors, also if the
// address is not one that may be told.
absl::StatusOr<TaskPush> ReadA2aPush(const PushConfig& config, const a2a::TaskPushNotificationConfig& from);
a2a::TaskPushNotificationConfig TellA2aPush(const TaskPush& push);

}  // namespace omni
