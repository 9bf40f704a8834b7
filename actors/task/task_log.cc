#include "actors/task/task_log.h"

#include "engine/base/log.h"

namespace omni {

void LogTaskStoreFailed(const absl::Status& status) {
  LogError("task_store_failed", "tasks are refused until their store takes writes again: {reason}",
           {{"reason", std::string_view(status.message().data(), status.message().size())}});
}

void LogTaskStoreRecovered() {
  LogWarning("task_store_recovered", "the store of tasks takes writes again", {});
}

void LogTaskUnreadable(std::string_view task, const absl::Status& status) {
  LogError("task_unreadable", "the record of task {task} cannot be read: {reason}",
           {{"task", task}, {"reason", std::string_view(status.message().data(), status.message().size())}});
}

void LogPushFailed(std::string_view server, std::string_view task, int failures, const absl::Status& status) {
  LogWarning(
      "push_failed",
      "{server} was not told of an event of task {task}, and will be again; {failures} failed: {reason}",
      {{"server", server},
       {"task", task},
       {"failures", failures},
       {"reason", std::string_view(status.message().data(), status.message().size())}});
}

void LogPushGivenUp(std::string_view server, std::string_view task, const absl::Status& status) {
  LogError("push_given_up", "{server} is told no more of an event of task {task}: {reason}",
           {{"server", server},
            {"task", task},
            {"reason", std::string_view(status.message().data(), status.message().size())}});
}

}  // namespace omni
