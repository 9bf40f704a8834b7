// What the ledger does by itself: what is due, children, schedules, and what nobody needs any more.
#include <algorithm>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "actors/task/check_task.h"
#include "actors/task/schedule.h"
#include "actors/task/task_ledger.h"
#include "engine/base/quoted.h"
#include "engine/base/simulated.h"

namespace omni {
namespace {

constexpr size_t kMostOfOne = 12;       // changes that one child, or one task that is purged, makes
constexpr size_t kRetainedAtOnce = 64;  // tasks
constexpr TaskDuration kRetainedEvery = std::chrono::minutes(1);
constexpr TaskDuration kScheduleAgain = std::chrono::seconds(10);
constexpr char kScheduleKey[] = "schedule/";  // then its name, a slash, and the time
constexpr size_t kScheduleKeyBytes = sizeof kScheduleKey + 20;

}  // namespace

absl::Status TaskLedger::Load(TaskTime now) {
  Advance(now);
  queue_ = {};
  due_.clear();
  leases_.clear();
  ending_.clear();
  live_by_caller_.clear();
  live_ = unmade_ = pushes_ = 0;
  making_.clear();
  orphaning_.clear();
  purging_.clear();
  plans_.clear();
  plan_times_.clear();
  next_retained_.reset();
  counts_ = lasting_;
  counts_.by_status = {};
  absl::Status status;
  const auto scan = [&](const char* prefix, const auto& add) {
    if (!status.ok()) return;
    const absl::Status read = store_.Scan(prefix, "", [&](std::string_view key, std::string_view value) {
      status = add(key, value);
      return status.ok();
    });
    if (status.ok()) status = read;
  };
  scan(kLivePrefix, [&](std::string_view key, std::string_view value) {
    absl::StatusOr<TaskRecord> record = DecodeTaskRecord(value);
    if (!record.ok())
      return absl::DataLossError(absl::StrCat(std::string(key), ": ", record.status().message()));
    record->lease.ends = now_ + options_.lease;
    if (record->state.status == TaskStatus::kScheduled && OMNI_TASK_PLANTED(kDelayedForgotten))
      return absl::OkStatus();
    Index(*record);
    return absl::OkStatus();
  });
  scan(kOrphansPrefix, [&](std::string_view key, std::string_view) {
    orphaning_.emplace(LastPart(key));
    return absl::OkStatus();
  });
  scan(kPurgePrefix, [&](std::string_view key, std::string_view) {
    purging_.emplace(LastPart(key));
    return absl::OkStatus();
  });
  scan(kPushPrefix, [&](std::string_view, std::string_view) {
    ++pushes_;
    return absl::OkStatus();
  });
  scan(kPlanPrefix, [&](std::string_view key, std::string_view value) {
    const absl::StatusOr<TaskSchedule> schedule = DecodeTaskSchedule(value);
    if (!schedule.ok())
      return absl::DataLossError(absl::StrCat(std::string(key), ": ", schedule.status().message()));
    SetScheduleDue(std::string(key), schedule->paused ? std::nullopt : std::optional(schedule->next));
    return absl::OkStatus();
  });
  failed_ = !status.ok();
  if (status.ok()) Decided(true);
  return status;
}

std::optional<TaskTime> TaskLedger::next_due() const {
  if (!ending_.empty() || !making_.empty() || !orphaning_.empty() || !purging_.empty()) return now_;
  std::optional<TaskTime> due = next_retained_.value_or(now_);
  if (!due_.empty()) due = std::min(*due, due_.begin()->first);
  if (!plans_.empty()) due = std::min(*due, plans_.begin()->first);
  return due;
}

absl::StatusOr<bool> TaskLedger::Settle(TaskTime now, size_t changes, TaskStep& step) {
  Advance(now);
  while (step.writes.size() < changes) {
    absl::Status s;
    if (!ending_.empty()) {
      s = EndLease(ending_.begin()->first, ending_.begin()->second, step);
    } else if (!due_.empty() && due_.begin()->first <= now_) {
      s = SettleTask(due_.begin()->second, step);
    } else if (!orphaning_.empty()) {
      s = CancelChildren(*orphaning_.begin(), changes, step);
    } else if (!making_.empty()) {
      s = MakeChildren(*making_.begin(), changes, step);
    } else if (!plans_.empty() && plans_.begin()->first <= now_) {
      s = SettleSchedule(plans_.begin()->second, step);
    } else if (!purging_.empty()) {
      s = PurgeEvents(*purging_.begin(), changes, step);
    } else if (!next_retained_.has_value() || *next_retained_ <= now_) {
      s = PurgeRetained(changes, step);
    } else {
      return false;
    }
    if (!s.ok()) return s;
  }
  return true;
}

absl::Status TaskLedger::SettleTask(TaskId id, TaskStep& step) {
  const absl::StatusOr<TaskRecord> before = FindRecord(id, step);
  if (!before.ok()) return before.status();
  TaskRecord record = *before;
  const TaskTimeouts& timeouts = record.timeouts;
  const auto past = [&](TaskTime since, TaskDuration most) {
    return most.count() > 0 && since + most <= now_;
  };
  if (record.state.status == TaskStatus::kRunning) step.ended.push_back(record.lease.token);
  if (past(record.drive, timeouts.total)) {
    const bool cancelled = record.state.cancel_requested;
    End(record, cancelled ? TaskStatus::kCancelled : TaskStatus::kFailed,
        cancelled ? kErrorCancelled : kErrorDeadline,
        absl::StrCat("it was not done within ", timeouts.total.count(), " ms"), step);
  } else if (record.state.status == TaskStatus::kScheduled) {
    MakeReady(record, step);
  } else if (record.state.status == TaskStatus::kQueued) {
    End(record, TaskStatus::kFailed, kErrorQueueTimeout,
        absl::StrCat("no executor took it within ", timeouts.queue.count(), " ms"), step);
  } else if (past(record.lease.began, timeouts.run)) {
    FailAttempt(record, kErrorTimeout,
                absl::StrCat("the attempt took longer than ", timeouts.run.count(), " ms"), step);
  } else {
    OMNI_TASK_REACHED(kLeaseRanOut);
    if (OMNI_TASK_PLANTED(kLeaseNeverEnds)) {
      due_.erase(due_.begin());
      return absl::OkStatus();
    }
    FailAttempt(record, kErrorLost, "its executor was not heard of in time", step);
  }
  return Put(&*before, record, step);
}

absl::Status TaskLedger::MakeChildren(TaskId id, size_t changes, TaskStep& step) {
  const absl::StatusOr<TaskWork> work = FindWork(id, step);
  if (failed_) return work.status();
  bool one = false;
  while (true) {
    // Its record changes with every child that is over already.
    const absl::StatusOr<TaskRecord> before = FindRecord(id, step);
    if (!before.ok()) return before.status();
    TaskRecord record = *before;
    const int32_t index = record.children_made;
    if (record.state.status != TaskStatus::kWaiting || index >= record.state.children)
      return absl::OkStatus();
    if (!work.ok()) {
      End(record, TaskStatus::kFailed, kErrorInvalid, std::string(work.status().message()), step);
      return Put(&*before, record, step);
    }
    if (std::exchange(one, true) && step.writes.size() + kMostOfOne > changes) return absl::OkStatus();
    ++record.children_made;
    if (absl::Status s = Put(&*before, record, step); !s.ok()) return s;
    const absl::StatusOr<std::optional<std::string>> known = Get(step, ChildKey(id, index));
    if (!known.ok()) return known.status();
    absl::StatusOr<TaskRecord> child = absl::NotFoundError("");
    if (known->has_value() && !OMNI_TASK_PLANTED(kChildrenMadeAgain)) child = FindRecord(**known, step);
    if (absl::IsNotFound(child.status())) {
      child =
          Insert(record.state.caller, "", work->children[static_cast<size_t>(index)], &record, index, step);
      if (!child.ok()) return child.status();
    } else if (!child.ok()) {
      if (failed_) return child.status();
      TaskRecord unreadable;
      unreadable.state.id = **known;
      unreadable.state.parent = id;
      unreadable.state.index = index;
      unreadable.state.status = TaskStatus::kFailed;
      unreadable.state.error = kErrorInvalid;
      unreadable.state.message = std::string(child.status().message());
      if (absl::Status s = ChildOver(unreadable, step); !s.ok()) return s;
    } else if (child->state.status == TaskStatus::kSucceeded) {
      OMNI_TASK_REACHED(kSucceededChildKept);
      if (absl::Status s = ChildOver(*child, step); !s.ok()) return s;
    } else if (IsOver(child->state.status) || child->state.cancel_requested) {
      TaskRecord over = *child;
      if (!IsOver(child->state.status)) {
        // Its executor has been told to stop, which says nothing about the next one.
        OMNI_TASK_REACHED(kChildRetriedWhileItStops);
        step.ended.push_back(over.lease.token);
        End(over, TaskStatus::kCancelled, kErrorCancelled, "", step);
        ++counts_.cancelled;
      }
      const absl::StatusOr<TaskRecord> again =
          HandInAgain(*child, std::move(over), record.state.caller, step);
      if (!again.ok()) return again.status();
    }
  }
}

absl::Status TaskLedger::CancelChildren(TaskId id, size_t changes, TaskStep& step) {
  const absl::StatusOr<TaskRecord> parent = FindRecord(id, step);
  if (!parent.ok()) {
    orphaning_.erase(id);
    return failed_ ? parent.status() : absl::OkStatus();
  }
  bool one = false;
  for (int32_t index = 0; index < parent->children_made; ++index) {
    const absl::StatusOr<std::optional<std::string>> child_id = Get(step, ChildKey(id, index));
    if (!child_id.ok()) return child_id.status();
    if (!child_id->has_value()) continue;
    const absl::StatusOr<TaskRecord> child = FindRecord(**child_id, step);
    if (failed_) return child.status();
    if (!child.ok() || IsOver(child->state.status) || child->outlives_parent || child->state.cancel_requested)
      continue;
    if (std::exchange(one, true) && step.writes.size() + kMostOfOne > changes) {
      OMNI_TASK_REACHED(kOrphansCancelledLater);
      return absl::OkStatus();
    }
    const absl::StatusOr<TaskState> cancelled =
        Cancel({.caller = parent->state.caller, .all = true}, child->state.id, now_, step);
    if (!cancelled.ok()) return cancelled.status();
  }
  step.writes[OrphansKey(id)] = std::nullopt;
  orphaning_.erase(id);
  return absl::OkStatus();
}

absl::Status TaskLedger::PurgeEvents(TaskId id, size_t changes, TaskStep& step) {
  const std::string prefixes[] = {EventPrefix(id), PointPrefix(id), ChildPrefix(id), PushPrefix(id)};
  const size_t most = changes - step.writes.size();
  std::vector<std::string> keys;
  for (const std::string& prefix : prefixes) {
    if (keys.size() >= most) break;
    // What the step deletes already is still in the store.
    const absl::Status s = store_.Scan(prefix, "", [&](std::string_view key, std::string_view) {
      const auto written = step.writes.find(key);
      if (written == step.writes.end() || written->second.has_value()) keys.emplace_back(key);
      return keys.size() < most;
    });
    if (!s.ok()) {
      failed_ = true;
      return s;
    }
  }
  const bool all = keys.size() < most;
  for (std::string& key : keys) {
    pushes_ -= key.starts_with(kPushPrefix) ? 1 : 0;
    step.writes[std::move(key)] = std::nullopt;
  }
  if (!all) {
    OMNI_TASK_REACHED(kPurgedInSteps);
    return absl::OkStatus();
  }
  // Those that this very step wrote are not in the store yet.
  for (const std::string& prefix : prefixes)
    for (auto at = step.writes.lower_bound(prefix); at != step.writes.end() && at->first.starts_with(prefix);
         ++at) {
      if (at->second.has_value() && at->first.starts_with(kPushPrefix)) --pushes_;
      at->second.reset();
    }
  step.writes[PurgeKey(id)] = std::nullopt;
  purging_.erase(id);
  return absl::OkStatus();
}

absl::Status TaskLedger::PurgeRetained(size_t changes, TaskStep& step) {
  std::vector<TaskId> ids;
  TaskTime next = now_ + kRetainedEvery;
  const std::string last = RetainKey(now_, "~");
  const absl::Status s = store_.Scan(kRetainPrefix, "", [&](std::string_view key, std::string_view) {
    if (key > last) return false;
    const auto written = step.writes.find(key);
    if (written == step.writes.end() || written->second.has_value()) {
      ids.emplace_back(LastPart(key));
      step.writes[std::string(key)] = std::nullopt;  // it also goes if what it names cannot be read
    }
    return ids.size() < kRetainedAtOnce && step.writes.size() + ids.size() * kMostOfOne < changes;
  });
  if (!s.ok()) {
    failed_ = true;
    return s;
  }
  if (!ids.empty()) next = now_;  // there may be more
  for (const TaskId& id : ids) {
    const absl::StatusOr<TaskRecord> record = FindRecord(id, step);
    if (failed_) return record.status();
    OMNI_TASK_REACHED(kRetentionOver);
    if (record.ok() && IsOver(record->state.status)) PurgeRecord(*record, step);
  }
  next_retained_ = next;
  return absl::OkStatus();
}

void TaskLedger::SetScheduleDue(const std::string& key, std::optional<TaskTime> due) {
  std::optional<TaskTime>& known = plan_times_[key];
  if (known.has_value()) plans_.erase({*known, key});
  known = due;
  if (due.has_value()) plans_.emplace(*due, key);
}

absl::Status TaskLedger::PutSchedule(TaskSchedule schedule, TaskTime now, TaskStep& step) {
  Advance(now);
  if (schedule.name.empty() || schedule.name.size() + kScheduleKeyBytes > options_.limits.word_bytes)
    return absl::InvalidArgumentError(absl::StrCat("a schedule's name has 1 to ",
                                                   options_.limits.word_bytes - kScheduleKeyBytes, " bytes"));
  if (absl::Status s = CheckTask({schedule.caller, "", schedule.spec}, options_.limits); !s.ok()) return s;
  const absl::StatusOr<CronSchedule> cron = CronSchedule::Parse(schedule.cron, schedule.zone);
  if (!cron.ok()) return cron.status();
  const std::optional<TaskTime> next = cron->NextAfter(now_);
  if (!next.has_value())
    return absl::InvalidArgumentError(
        absl::StrCat("the schedule ", Quoted(schedule.cron), " has no time in five years"));
  const std::string key = PlanKey(schedule.caller, schedule.name);
  const absl::StatusOr<std::optional<std::string>> known = Get(step, key);
  if (!known.ok()) return known.status();
  if (!known->has_value() && plan_times_.size() >= options_.limits.schedules)
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", plan_times_.size(), " schedules already; delete some"));
  schedule.next = *next;
  step.writes[key] = Encode(schedule);
  SetScheduleDue(key, schedule.paused ? std::nullopt : next);
  return absl::OkStatus();
}

absl::Status TaskLedger::DeleteSchedule(std::string_view caller, std::string_view name, TaskStep& step) {
  const std::string key = PlanKey(caller, name);
  const absl::StatusOr<std::optional<std::string>> known = Get(step, key);
  if (!known.ok()) return known.status();
  if (!known->has_value()) return absl::NotFoundError(absl::StrCat("there is no schedule ", Quoted(name)));
  step.writes[key] = std::nullopt;
  SetScheduleDue(key, std::nullopt);
  plan_times_.erase(key);
  return absl::OkStatus();
}

absl::Status TaskLedger::SettleSchedule(std::string key, TaskStep& step) {
  const absl::StatusOr<std::optional<std::string>> bytes = Get(step, key);
  if (!bytes.ok()) return bytes.status();
  absl::StatusOr<TaskSchedule> schedule = absl::NotFoundError("");
  if (bytes->has_value()) schedule = DecodeTaskSchedule(**bytes);
  const absl::StatusOr<CronSchedule> cron =
      schedule.ok() ? CronSchedule::Parse(schedule->cron, schedule->zone) : schedule.status();
  if (!cron.ok()) {
    SetScheduleDue(key, std::nullopt);  // it went, or its zone did with the machine's database of them
    return absl::OkStatus();
  }
  TaskTime time = schedule->next;
  if (!schedule->every_missed) time = cron->LastUntil(time, now_);
  if (time != schedule->next) OMNI_TASK_REACHED(kScheduleSkipped);
  const std::optional<TaskTime> next = cron->NextAfter(time);
  // Its key is its time: handing it in twice is handing it in once.
  const std::string once = absl::StrCat(kScheduleKey, schedule->name, "/", time.time_since_epoch().count());
  const absl::StatusOr<TaskSubmitted> submitted =
      Submit({schedule->caller, once, schedule->spec}, now_, step);
  if (absl::IsResourceExhausted(submitted.status())) {
    SetScheduleDue(key, now_ + kScheduleAgain);
    return absl::OkStatus();
  }
  // Whatever else is wrong with it will be wrong with it the next time.
  if (failed_) return submitted.status();
  schedule->last = time;
  if (submitted.ok()) schedule->last_task = submitted->state.id;
  if (next.has_value()) schedule->next = *next;
  schedule->paused = !next.has_value();
  step.writes[key] = Encode(*schedule);
  SetScheduleDue(key, next);
  return absl::OkStatus();
}

}  // namespace omni
