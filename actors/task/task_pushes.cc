// Who is told of tasks' events.
#include <algorithm>
#include <limits>

#include <absl/strings/str_cat.h>

#include "actors/task/check_task.h"
#include "actors/task/task_ledger.h"
#include "engine/base/quoted.h"
#include "engine/base/simulated.h"

namespace omni {
namespace {

absl::Status NoPush(std::string_view id, std::string_view name) {
  return absl::NotFoundError(
      absl::StrCat("nobody is told of task ", Quoted(id), " under the name ", Quoted(name)));
}

}  // namespace

absl::StatusOr<TaskPush> TaskLedger::PutPush(const TaskClient& by, TaskPush push, TaskTime now,
                                             TaskStep& step) {
  Advance(now);
  const absl::StatusOr<TaskRecord> record = Find(by, push.task, step);
  if (!record.ok()) return record.status();
  const TaskLimits& limits = options_.limits;
  if (absl::Status s = CheckPush(push, limits); !s.ok()) return s;
  const bool from_now = push.told < 0;
  if (from_now) push.told = record->state.last_event;
  push.told = std::min(push.told, record->state.last_event);
  const std::string key = PushKey(push.task, push.name);
  const absl::StatusOr<std::optional<std::string>> known = Get(step, key);
  if (!known.ok()) return known.status();
  if (known->has_value()) {
    const absl::StatusOr<TaskPush> before = DecodeTaskPush(**known);
    // Who is told already is told all: what it waits for is not passed over when it is named again.
    if (before.ok() && before->url == push.url)
      push.told = from_now ? before->told : std::max(push.told, before->told);
  } else {
    size_t of_task = 0;
    const std::string prefix = PushPrefix(push.task);
    const absl::Status s = store_.Scan(prefix, "", [&](std::string_view at, std::string_view) {
      of_task += step.writes.contains(at) ? 0 : 1;
      return true;
    });
    if (!s.ok()) {
      failed_ = true;
      return s;
    }
    for (auto at = step.writes.lower_bound(prefix); at != step.writes.end() && at->first.starts_with(prefix);
         ++at)
      of_task += at->second.has_value() ? 1 : 0;
    if (of_task >= limits.pushes_of_task || pushes_ >= limits.pushes)
      return absl::ResourceExhaustedError(
          absl::StrCat("of this task ", of_task, " are told already, of all ", pushes_, "; delete some"));
    ++pushes_;
  }
  step.writes[key] = Encode(push);
  return push;
}

absl::Status TaskLedger::DeletePush(const TaskClient& by, std::string_view id, std::string_view name,
                                    TaskStep& step) {
  if (const absl::StatusOr<TaskRecord> record = Find(by, id, step); !record.ok()) return record.status();
  const std::string key = PushKey(id, name);
  const absl::StatusOr<std::optional<std::string>> known = Get(step, key);
  if (!known.ok()) return known.status();
  if (!known->has_value()) return NoPush(id, name);
  step.writes[key] = std::nullopt;
  step.changed.insert(TaskId(id));  // whoever tells it lets it go
  --pushes_;
  return absl::OkStatus();
}

absl::Status TaskLedger::Pushed(std::string_view id, std::string_view name, std::string_view url,
                                int64_t told, TaskStep& step) {
  const std::string key = PushKey(id, name);
  const absl::StatusOr<std::optional<std::string>> known = Get(step, key);
  if (!known.ok()) return known.status();
  if (!known->has_value()) return absl::OkStatus();
  absl::StatusOr<TaskPush> push = DecodeTaskPush(**known);
  if (!push.ok()) return push.status();
  if (told <= push->told || push->url != url) return absl::OkStatus();
  push->told = told;
  step.writes[key] = Encode(*push);
  return absl::OkStatus();
}

}  // namespace omni
