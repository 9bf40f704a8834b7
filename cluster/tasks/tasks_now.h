// What a process says of its tasks to whoever watches it: the status page, Prometheus.
#pragma once

#include <cstdint>
#include <vector>

#include "actors/task/task.h"
#include "actors/task/task_engine.h"

namespace omni {

struct TasksNow {
  TaskFigures figures;
  int64_t accepted = 0;           // handed in over gRPC, since the start
  int64_t watches = 0;            // streams of events that are open
  std::vector<TaskState> latest;  // the one whose status changed last first, of all callers
};

// As the page and Prometheus name it.
constexpr const char* TaskStatusName(TaskStatus status) {
  switch (status) {
    case TaskStatus::kScheduled:
      return "scheduled";
    case TaskStatus::kQueued:
      return "queued";
    case TaskStatus::kRunning:
      return "running";
    case TaskStatus::kWaiting:
      return "waiting";
    case TaskStatus::kSucceeded:
      return "succeeded";
    case TaskStatus::kFailed:
      return "failed";
    case TaskStatus::kCancelled:
      return "cancelled";
  }
  return "";
}

}  // namespace omni
