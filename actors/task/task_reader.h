// What can be read of tasks: what lasts, and nothing sooner.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/task/task.h"
#include "actors/task/task_ledger.h"
#include "actors/task/task_record.h"
#include "store/state/record_store.h"

namespace omni {

// What a list is narrowed by; empty: by nothing.
struct TaskFilter {
  std::vector<TaskStatus> statuses = {};
  std::string executor = {}, context = {}, parent = {};
  std::optional<TaskTime> updated_since = {};
};

struct TaskPage {
  std::vector<TaskState> tasks;  // the one whose status changed last first
  std::string next;              // where to go on; empty: that was all. A page may be empty and not the last.
};

struct TaskSchedulePage {
  std::vector<TaskSchedule> schedules;  // by caller, then name
  std::string next;                     // as of TaskPage
};

// Thread-safe. NotFound: there is no such task, or it is another's.
class TaskReader {
 public:
  // How many lines of the list one call looks at, however few of them the filter lets through.
  static constexpr int kMostLooked = 20'000;

  // The store outlives the reader.
  explicit TaskReader(const RecordStore& store) : store_(store) {}

  absl::StatusOr<TaskState> Find(const TaskClient& by, std::string_view id) const;
  absl::StatusOr<TaskRecord> FindRecord(const TaskClient& by, std::string_view id) const;
  absl::StatusOr<TaskWork> Work(const TaskClient& by, std::string_view id) const;
  // FailedPrecondition: it has not succeeded.
  absl::StatusOr<std::string> Result(const TaskClient& by, std::string_view id) const;
  // Those after number `after`, at most `most` of them and about `bytes`; one at least if there is one.
  absl::StatusOr<std::vector<TaskEvent>> Events(const TaskClient& by, std::string_view id, int64_t after,
                                                int most, size_t bytes = 1 << 20) const;
  // At most `most`; `from` is the page before's `next`. InvalidArgument: it is not.
  absl::StatusOr<TaskPage> List(const TaskClient& by, const TaskFilter& filter, int most,
                                std::string_view from) const;
  absl::StatusOr<std::vector<TaskSchedule>> Schedules(const TaskClient& by) const;  // by caller, then name
  // At most `most` and about `bytes` of them, and one at least; `from` is the page before's `next`.
  absl::StatusOr<TaskSchedulePage> ListSchedules(const TaskClient& by, int most, std::string_view from,
                                                 size_t bytes = 1 << 20) const;
  absl::StatusOr<TaskSchedule> FindSchedule(std::string_view caller, std::string_view name) const;

  // Who is told of a task's events; by name. FindPush: NotFound, also if there is none of that name.
  absl::StatusOr<std::vector<TaskPush>> Pushes(const TaskClient& by, std::string_view id) const;
  absl::StatusOr<TaskPush> FindPush(const TaskClient& by, std::string_view id, std::string_view name) const;
  // Of all tasks, also of those that were purged a moment ago; one that cannot be read is left out.
  absl::Status ScanPushes(const std::function<void(const TaskPush&)>& visit) const;

 private:
  const RecordStore& store_;
};

}  // namespace omni
