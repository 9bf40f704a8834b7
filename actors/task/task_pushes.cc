// Who is told of tasks' events.
#include <algorithm>
#include <limits>

#include <absl/strings/str_cat.h>

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
  if (push.name.empty() || push.name.size() > limits.word_bytes)
    return absl::InvalidArgumentError(absl::StrCat("a name has 1 to ", limits.word_bytes, " bytes"));
  const size_t bytes = push.url.size() + push.token.size() + push.scheme.size() + push.credentials.size();
  if (bytes > limits.push_bytes)
    return absl::InvalidArgumentError(
        absl::StrCat("URL, token and credentials have ", bytes, " bytes; at most ", limits.push_bytes));
  if (push.told < 0) push.told = record->state.last_event;
  push.told = std::min(push.told, record->state.last_event);
  const std::string key = PushKey(push.task, push.name);
  const absl::StatusOr<std::optional<std::string>> known = Get(step, key);
  if (!known.ok()) return known.status();
  if (known->has_value()) {
    const absl::StatusOr<TaskPush> before = DecodeTaskPush(**known);
    if (before.ok() && before->url == push.url) push.told = std::max(push.told, before->told);
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
  --pushes_;
  return absl::OkStatus();
}

absl::Status TaskLedger::Pushed(std::string_view id, std::string_view name, int64_t told, TaskStep& step) {
  const std::string key = PushKey(id, name);
  const absl::StatusOr<std::optional<std::string>> known = Get(step, key);
  if (!known.ok()) return known.status();
  if (!known->has_value()) return absl::OkStatus();
  absl::StatusOr<TaskPush> push = DecodeTaskPush(**known);
  if (!push.ok()) return push.status();
  if (told <= push->told) return absl::OkStatus();
  push->told = told;
  step.writes[key] = Encode(*push);
  return absl::OkStatus();
}

}  // namespace omni
