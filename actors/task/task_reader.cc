#include "actors/task/task_reader.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "actors/task/task_log.h"
#include "engine/base/quoted.h"

namespace omni {
namespace {

constexpr size_t kNextSize = 16 + 1 + 32;  // a time, a slash, an id

bool IsNext(std::string_view next) {
  if (next.size() != kNextSize || next[16] != '/') return false;
  return std::all_of(next.begin(), next.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || c == '/'; });
}

absl::Status NoTask(std::string_view id) {
  return absl::NotFoundError(absl::StrCat("there is no task ", Quoted(id),
                                          "; it may have been purged, or never have been handed in"));
}

bool Fits(const TaskFilter& filter, const TaskListed& listed) {
  const auto& statuses = filter.statuses;
  return (statuses.empty() || std::find(statuses.begin(), statuses.end(), listed.status) != statuses.end()) &&
         (filter.executor.empty() || filter.executor == listed.executor) &&
         (filter.context.empty() || filter.context == listed.context) &&
         (filter.parent.empty() || filter.parent == listed.parent);
}

}  // namespace

absl::StatusOr<TaskRecord> TaskReader::FindRecord(const TaskClient& by, std::string_view id) const {
  // Live last once more: a task that ends, or is retried, between two reads is found by the next.
  for (const std::string& key : {LiveKey(id), OverKey(id), LiveKey(id)}) {
    const absl::StatusOr<std::optional<std::string>> bytes = store_.Get(key);
    if (!bytes.ok()) return bytes.status();
    if (!bytes->has_value()) continue;
    absl::StatusOr<TaskRecord> record = DecodeTaskRecord(**bytes);
    if (record.ok() && !by.all && record->state.caller != by.caller) break;
    return record;
  }
  return NoTask(id);
}

absl::StatusOr<TaskState> TaskReader::Find(const TaskClient& by, std::string_view id) const {
  absl::StatusOr<TaskRecord> record = FindRecord(by, id);
  if (!record.ok()) return record.status();
  return std::move(record->state);
}

absl::StatusOr<TaskWork> TaskReader::Work(const TaskClient& by, std::string_view id) const {
  const absl::StatusOr<TaskRecord> record = FindRecord(by, id);
  if (!record.ok()) return record.status();
  const absl::StatusOr<std::optional<std::string>> bytes = store_.Get(WorkKey(id));
  if (!bytes.ok()) return bytes.status();
  if (!bytes->has_value()) return absl::NotFoundError(absl::StrCat("task ", Quoted(id), " was purged"));
  return DecodeTaskWork(**bytes);
}

absl::StatusOr<std::string> TaskReader::Result(const TaskClient& by, std::string_view id) const {
  const absl::StatusOr<TaskRecord> record = FindRecord(by, id);
  if (!record.ok()) return record.status();
  if (record->state.status != TaskStatus::kSucceeded)
    return absl::FailedPreconditionError(absl::StrCat("task ", Quoted(id), " has not succeeded"));
  absl::StatusOr<std::optional<std::string>> bytes = store_.Get(ResultKey(id));
  if (!bytes.ok()) return bytes.status();
  // One that is empty is there too.
  if (!bytes->has_value()) return absl::NotFoundError(absl::StrCat("task ", Quoted(id), " was purged"));
  return **std::move(bytes);
}

absl::StatusOr<std::vector<TaskEvent>> TaskReader::Events(const TaskClient& by, std::string_view id,
                                                          int64_t after, int most, size_t bytes) const {
  if (const absl::StatusOr<TaskRecord> record = FindRecord(by, id); !record.ok()) return record.status();
  std::vector<TaskEvent> events;
  absl::Status status;
  size_t read = 0;
  const absl::Status s =
      store_.Scan(EventPrefix(id), EventKey(id, after + 1), [&](std::string_view, std::string_view value) {
        absl::StatusOr<TaskEvent> event = DecodeTaskEvent(value);
        if (!event.ok()) {
          status = event.status();
          return false;
        }
        read += value.size();
        events.push_back(*std::move(event));
        return static_cast<int>(events.size()) < most && read < bytes;
      });
  if (!s.ok()) return s;
  if (!status.ok()) return status;
  // They go with the task, the first ones first.
  if (!events.empty() && events.front().number != after + 1) return NoTask(id);
  return events;
}

absl::StatusOr<TaskPage> TaskReader::List(const TaskClient& by, const TaskFilter& filter, int most,
                                          std::string_view from) const {
  if (!from.empty() && !IsNext(from))
    return absl::InvalidArgumentError("the page token is not one that a list gave; begin without one");
  const bool dead = filter.statuses == std::vector<TaskStatus>{TaskStatus::kFailed};
  const std::string prefix = !by.all ? OfPrefix(by.caller) : dead ? kDeadPrefix : kAllPrefix;
  TaskPage page;
  absl::Status status;
  int looked = 0;
  std::vector<std::string> ids;
  // Behind the last one that was given.
  const std::string start = from.empty() ? "" : prefix + std::string(from) + '\0';
  const std::string last = filter.updated_since.has_value()
                               ? prefix + AllKey(*filter.updated_since, "~").substr(sizeof kAllPrefix - 1)
                               : "";
  bool all = true;
  const absl::Status s = store_.Scan(prefix, start, [&](std::string_view key, std::string_view value) {
    if (!last.empty() && key > last) return false;
    all = static_cast<int>(ids.size()) < most && looked < kMostLooked;
    if (!all) return false;
    const absl::StatusOr<TaskListed> listed = DecodeTaskListed(value);
    status = listed.status();
    if (!status.ok()) return false;
    ++looked;
    page.next = key.substr(prefix.size());
    if (Fits(filter, *listed)) ids.emplace_back(LastPart(key));
    return true;
  });
  if (!s.ok()) return s;
  if (!status.ok()) return status;
  if (all) page.next.clear();
  for (const std::string& id : ids) {
    absl::StatusOr<TaskState> task = Find(by, id);
    if (absl::IsNotFound(task.status())) continue;  // purged meanwhile
    if (absl::IsDataLoss(task.status())) {
      LogTaskUnreadable(id, task.status());
      continue;
    }
    if (!task.ok()) return task.status();
    // It may be another status's by now.
    if (Fits(filter, {task->status, task->executor, task->context, task->parent}))
      page.tasks.push_back(*std::move(task));
  }
  std::stable_sort(page.tasks.begin(), page.tasks.end(),
                   [](const TaskState& a, const TaskState& b) { return a.updated > b.updated; });
  return page;
}

absl::StatusOr<std::vector<TaskSchedule>> TaskReader::Schedules(const TaskClient& by) const {
  std::vector<TaskSchedule> schedules;
  absl::Status status;
  const std::string prefix = by.all ? kPlanPrefix : PlanPrefix(by.caller);
  const absl::Status s = store_.Scan(prefix, "", [&](std::string_view, std::string_view value) {
    absl::StatusOr<TaskSchedule> schedule = DecodeTaskSchedule(value);
    status = schedule.status();
    if (schedule.ok()) schedules.push_back(*std::move(schedule));
    return status.ok();
  });
  if (!s.ok()) return s;
  if (!status.ok()) return status;
  return schedules;
}

absl::StatusOr<TaskSchedulePage> TaskReader::ListSchedules(const TaskClient& by, int most,
                                                           std::string_view from, size_t bytes) const {
  const std::string prefix = by.all ? kPlanPrefix : PlanPrefix(by.caller);
  const bool fits = std::all_of(from.begin(), from.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || c == '/';
  });
  if (!fits)
    return absl::InvalidArgumentError("the page token is not one that a list gave; begin without one");
  TaskSchedulePage page;
  absl::Status status;
  size_t read = 0;
  const std::string start = from.empty() ? "" : prefix + std::string(from) + '\0';
  const absl::Status s = store_.Scan(prefix, start, [&](std::string_view key, std::string_view value) {
    if (static_cast<int>(page.schedules.size()) >= most || read >= bytes) return false;
    absl::StatusOr<TaskSchedule> schedule = DecodeTaskSchedule(value);
    status = schedule.status();
    if (!schedule.ok()) return false;
    read += value.size();
    page.schedules.push_back(*std::move(schedule));
    page.next = key.substr(prefix.size());
    return true;
  });
  if (!s.ok()) return s;
  if (!status.ok()) return status;
  if (static_cast<int>(page.schedules.size()) < most && read < bytes) page.next.clear();
  return page;
}

absl::StatusOr<TaskSchedule> TaskReader::FindSchedule(std::string_view caller, std::string_view name) const {
  const absl::StatusOr<std::optional<std::string>> bytes = store_.Get(PlanKey(caller, name));
  if (!bytes.ok()) return bytes.status();
  if (!bytes->has_value()) return absl::NotFoundError(absl::StrCat("there is no schedule ", Quoted(name)));
  return DecodeTaskSchedule(**bytes);
}

absl::StatusOr<std::vector<TaskPush>> TaskReader::Pushes(const TaskClient& by, std::string_view id) const {
  if (const absl::StatusOr<TaskRecord> record = FindRecord(by, id); !record.ok()) return record.status();
  std::vector<TaskPush> pushes;
  absl::Status status;
  const absl::Status s = store_.Scan(PushPrefix(id), "", [&](std::string_view, std::string_view value) {
    absl::StatusOr<TaskPush> push = DecodeTaskPush(value);
    status = push.status();
    if (push.ok()) pushes.push_back(*std::move(push));
    return status.ok();
  });
  if (!s.ok()) return s;
  if (!status.ok()) return status;
  return pushes;
}

absl::StatusOr<TaskPush> TaskReader::FindPush(const TaskClient& by, std::string_view id,
                                              std::string_view name) const {
  if (const absl::StatusOr<TaskRecord> record = FindRecord(by, id); !record.ok()) return record.status();
  const absl::StatusOr<std::optional<std::string>> bytes = store_.Get(PushKey(id, name));
  if (!bytes.ok()) return bytes.status();
  if (!bytes->has_value()) {
    return absl::NotFoundError(
        absl::StrCat("nobody is told of task ", Quoted(id), " under the name ", Quoted(name)));
  }
  return DecodeTaskPush(**bytes);
}

absl::Status TaskReader::ScanPushes(const std::function<void(const TaskPush&)>& visit) const {
  return store_.Scan(kPushPrefix, "", [&](std::string_view, std::string_view value) {
    if (const absl::StatusOr<TaskPush> push = DecodeTaskPush(value); push.ok()) visit(*push);
    return true;
  });
}

}  // namespace omni
