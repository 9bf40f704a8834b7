#include "actors/task/task_ledger.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "actors/task/check_task.h"
#include "actors/task/task_log.h"
#include "engine/base/quoted.h"
#include "engine/base/simulated.h"
#include "store/file/hash.h"

namespace omni {

namespace {

// That are still to be made.
int64_t Unmade(const TaskRecord& record) { return record.state.children - record.children_made; }

absl::Status NoTask(std::string_view id) {
  return absl::NotFoundError(absl::StrCat("there is no task ", Quoted(id),
                                          "; it may have been purged, or never have been handed in"));
}

}  // namespace

TaskLedger::TaskLedger(RecordStore& store, Options options) : store_(store), options_(std::move(options)) {}

absl::StatusOr<std::optional<std::string>> TaskLedger::Get(const TaskStep& step, std::string_view key) const {
  const auto written = step.writes.find(key);
  if (written != step.writes.end()) return written->second;
  absl::StatusOr<std::optional<std::string>> bytes = store_.Get(key);
  if (!bytes.ok()) failed_ = true;
  return bytes;
}

absl::StatusOr<TaskRecord> TaskLedger::FindRecord(std::string_view id, const TaskStep& step) const {
  for (const std::string& key : {LiveKey(id), OverKey(id)}) {
    absl::StatusOr<std::optional<std::string>> bytes = Get(step, key);
    if (!bytes.ok()) return bytes.status();
    if (!bytes->has_value()) continue;
    absl::StatusOr<TaskRecord> record = DecodeTaskRecord(**bytes);
    if (!record.ok()) {
      // What is over decides nothing any more.
      failed_ = key.starts_with(kLivePrefix);
      LogTaskUnreadable(id, record.status());
      return absl::DataLossError(
          absl::StrCat("the record of task ", Quoted(id), " cannot be read: ", record.status().message()));
    }
    // A lease that was read in ends later than its record says, or sooner.
    if (const auto lease = leases_.find(record->lease.token); lease != leases_.end())
      record->lease.ends = lease->second.ends;
    return record;
  }
  return NoTask(id);
}

absl::StatusOr<TaskRecord> TaskLedger::Find(const TaskClient& by, std::string_view id,
                                            const TaskStep& step) const {
  absl::StatusOr<TaskRecord> record = FindRecord(id, step);
  if (record.ok() && !by.all && record->state.caller != by.caller) return NoTask(id);
  return record;
}

absl::StatusOr<TaskWork> TaskLedger::FindWork(std::string_view id, const TaskStep& step) const {
  absl::StatusOr<std::optional<std::string>> bytes = Get(step, WorkKey(id));
  if (!bytes.ok()) return bytes.status();
  if (!bytes->has_value()) return absl::DataLossError("what was handed in is gone");
  return DecodeTaskWork(**bytes);
}

std::optional<TaskTime> TaskLedger::DueOf(const TaskRecord& r) const {
  std::optional<TaskTime> due;
  const auto add = [&](TaskTime time) { due = due.has_value() ? std::min(*due, time) : time; };
  if (IsOver(r.state.status)) return due;
  if (r.timeouts.total.count() > 0) add(r.drive + r.timeouts.total);
  switch (r.state.status) {
    case TaskStatus::kScheduled:
      add(r.state.ready);
      break;
    case TaskStatus::kQueued:
      if (r.timeouts.queue.count() > 0) add(r.queued + r.timeouts.queue);
      break;
    case TaskStatus::kRunning:
      add(r.lease.ends);
      if (r.timeouts.run.count() > 0) add(r.lease.began + r.timeouts.run);
      break;
    default:
      break;
  }
  return due;
}

void TaskLedger::Index(const TaskRecord& r, bool runs_on) {
  const TaskState& state = r.state;
  if (IsOver(state.status)) return;
  ++live_;
  unmade_ += Unmade(r);
  live_by_caller_[state.caller] += 1 + Unmade(r);
  ++counts_.by_status[static_cast<size_t>(state.status)];
  if (const std::optional<TaskTime> due = DueOf(r); due.has_value()) due_.emplace(*due, state.id);
  switch (state.status) {
    case TaskStatus::kQueued:
      queue_.Push({state.executor, state.target, state.caller, r.priority, r.queued, state.id});
      break;
    case TaskStatus::kRunning:
      leases_[r.lease.token] = {state.id, state.node, r.lease.worker, r.lease.ends};
      if (!runs_on) queue_.AddRunning(state.caller);
      break;
    case TaskStatus::kWaiting:
      if (r.children_made < state.children) making_.insert(state.id);
      break;
    default:
      break;
  }
}

void TaskLedger::Unindex(const TaskRecord& r, bool runs_on) {
  const TaskState& state = r.state;
  if (IsOver(state.status)) return;
  --live_;
  unmade_ -= Unmade(r);
  const auto caller = live_by_caller_.find(state.caller);
  caller->second -= 1 + Unmade(r);
  if (caller->second == 0) live_by_caller_.erase(caller);
  --counts_.by_status[static_cast<size_t>(state.status)];
  if (const std::optional<TaskTime> due = DueOf(r); due.has_value()) due_.erase({*due, state.id});
  switch (state.status) {
    case TaskStatus::kQueued:
      (void)queue_.Remove({state.executor, state.target, state.caller, r.priority, r.queued, state.id});
      break;
    case TaskStatus::kRunning:
      leases_.erase(r.lease.token);
      if (runs_on) break;
      ending_.erase(state.id);
      queue_.RemoveRunning(state.caller);
      break;
    case TaskStatus::kWaiting:
      making_.erase(state.id);
      break;
    default:
      break;
  }
}

std::string TaskLedger::NewId() {
  return absl::StrCat(absl::Hex(options_.random(), absl::kZeroPad16),
                      absl::Hex(options_.random(), absl::kZeroPad16));
}

void TaskLedger::AddEvent(TaskRecord& record, TaskEvent event, TaskStep& step) {
  event.number = ++record.state.last_event;
  event.time = now_;
  event.attempt = record.state.attempt;
  if (event.kind != TaskEventKind::kChildOver) event.status = record.state.status;
  std::string bytes = Encode(event);
  record.log_bytes += static_cast<int64_t>(bytes.size());
  step.writes[EventKey(record.state.id, event.number)] = std::move(bytes);
}

void TaskLedger::SetStatus(TaskRecord& record, TaskStatus status) {
  record.state.status = status;
  record.state.updated = now_;
}

absl::Status TaskLedger::Put(const TaskRecord* before, const TaskRecord& record, TaskStep& step) {
  const TaskState& state = record.state;
  const bool over = IsOver(state.status);
  const bool was_over = before != nullptr && IsOver(before->state.status);
  const bool moved =
      before == nullptr || before->state.status != state.status || before->state.updated != state.updated;
  const bool runs_on = before != nullptr && before->state.status == TaskStatus::kRunning &&
                       state.status == TaskStatus::kRunning;
  if (before != nullptr) {
    Unindex(*before, runs_on);
    if (moved) {
      step.writes[OfKey(state.caller, before->state.updated, state.id)] = std::nullopt;
      step.writes[AllKey(before->state.updated, state.id)] = std::nullopt;
      if (before->state.status == TaskStatus::kFailed)
        step.writes[DeadKey(before->state.updated, state.id)] = std::nullopt;
    }
    if (was_over) step.writes[RetainKey(before->state.ended + before->retain, state.id)] = std::nullopt;
    if (was_over != over) step.writes[was_over ? OverKey(state.id) : LiveKey(state.id)] = std::nullopt;
  }
  step.writes[over ? OverKey(state.id) : LiveKey(state.id)] = Encode(record);
  if (moved) {
    const std::string listed = Encode(TaskListed{state.status, state.executor, state.context, state.parent});
    step.writes[OfKey(state.caller, state.updated, state.id)] = listed;
    step.writes[AllKey(state.updated, state.id)] = listed;
    if (state.status == TaskStatus::kFailed) step.writes[DeadKey(state.updated, state.id)] = listed;
  }
  if (over) {
    const TaskTime until = state.ended + record.retain;
    step.writes[RetainKey(until, state.id)] = "";
    if (next_retained_.has_value()) next_retained_ = std::min(*next_retained_, until);
  }
  Index(record, runs_on);
  step.changed.insert(state.id);
  if (!over || was_over) return absl::OkStatus();
  (state.status == TaskStatus::kSucceeded ? counts_.succeeded
   : state.status == TaskStatus::kFailed  ? counts_.failed
                                          : counts_.cancelled)++;
  return state.parent.empty() ? absl::OkStatus() : ChildOver(record, step);
}

absl::Status TaskLedger::ChildOver(const TaskRecord& child, TaskStep& step) {
  const absl::StatusOr<TaskRecord> parent = FindRecord(child.state.parent, step);
  if (!parent.ok()) return failed_ ? parent.status() : absl::OkStatus();  // it went, or cannot be read
  if (parent->state.status != TaskStatus::kWaiting) return absl::OkStatus();
  if (child.state.index >= parent->children_made && !OMNI_TASK_PLANTED(kChildCountedTwice)) {
    // The parent was retried and comes to this one later.
    OMNI_TASK_REACHED(kChildOverBeforeItsTurn);
    return absl::OkStatus();
  }
  TaskRecord record = *parent;
  const bool succeeded = child.state.status == TaskStatus::kSucceeded;
  ++record.state.children_over;
  if (succeeded) ++record.state.children_succeeded;
  AddEvent(record, {.kind = TaskEventKind::kChildOver, .status = child.state.status, .name = child.state.id},
           step);
  const bool all_over = record.state.children_over == record.state.children;
  const bool enough = record.gather == TaskGather::kAny
                          ? succeeded
                          : record.state.children_succeeded == record.state.children;
  const bool hopeless = all_over || (record.gather == TaskGather::kAllFast && !succeeded);
  if (enough) {
    End(record, TaskStatus::kSucceeded, "", "", step);
  } else if (hopeless) {
    End(record, TaskStatus::kFailed, kErrorChildren,
        absl::StrCat(record.state.children_succeeded, " of ", record.state.children, " children succeeded; ",
                     child.state.id, " did not: ", child.state.error, " ", child.state.message),
        step);
  }
  return Put(&*parent, record, step);
}

void TaskLedger::MakeReady(TaskRecord& record, TaskStep& step) {
  if (record.state.executor == kFanout) {
    SetStatus(record, TaskStatus::kWaiting);
    return;
  }
  SetStatus(record, TaskStatus::kQueued);
  record.queued = now_;
  step.queued = true;
}

void TaskLedger::End(TaskRecord& record, TaskStatus status, const std::string& error,
                     const std::string& message, TaskStep& step) {
  SetStatus(record, status);
  record.state.ended = now_;
  if (status != TaskStatus::kSucceeded) {
    record.state.error = error;
    record.state.message = message;
  }
  record.lease = {};
  AddEvent(record, {.kind = TaskEventKind::kOver, .name = error, .data = message}, step);
  // Also those that are still to be made: they are not, since a fan-out that is over makes none.
  if (record.state.children > 0 && record.state.children_over < record.state.children) {
    step.writes[OrphansKey(record.state.id)] = "";
    orphaning_.insert(record.state.id);
  }
}

TaskDuration TaskLedger::Backoff(const TaskRetry& retry, int32_t failures) {
  double wait = static_cast<double>(retry.first.count());
  for (int32_t n = 1; n < failures && wait < static_cast<double>(retry.most.count()); ++n)
    wait *= retry.factor;
  wait = std::min(wait, static_cast<double>(retry.most.count()));
  const double uniform = static_cast<double>(options_.random() >> 11) * 0x1p-53;
  return TaskDuration(static_cast<int64_t>(wait * (1 - retry.jitter * uniform)));
}

void TaskLedger::FailAttempt(TaskRecord& record, const std::string& error, const std::string& message,
                             TaskStep& step) {
  if (record.state.cancel_requested) {
    End(record, TaskStatus::kCancelled, kErrorCancelled, message, step);
    return;
  }
  const bool lost = error == kErrorLost;
  const int32_t times = lost ? ++record.state.losses : ++record.state.failures;
  if (lost) ++counts_.lost;
  const auto& never = record.retry.never;
  const bool last = times >= (lost ? record.retry.losses : record.retry.attempts) || error == kErrorInvalid ||
                    std::find(never.begin(), never.end(), error) != never.end();
  if (last) {
    End(record, TaskStatus::kFailed, error, message, step);
    return;
  }
  record.state.error = error;
  record.state.message = message;
  record.lease = {};
  // What was lost with its node is not to blame.
  const TaskDuration wait = lost ? TaskDuration(0) : Backoff(record.retry, record.state.failures);
  record.state.ready = now_ + wait;
  if (wait.count() == 0) {
    MakeReady(record, step);
  } else {
    SetStatus(record, TaskStatus::kScheduled);
  }
  AddEvent(
      record,
      {.kind = TaskEventKind::kAttemptFailed, .ready = record.state.ready, .name = error, .data = message},
      step);
}

absl::StatusOr<TaskRecord> TaskLedger::Insert(const std::string& caller, const std::string& key,
                                              const TaskSpec& spec, const TaskRecord* parent, int32_t index,
                                              TaskStep& step) {
  TaskRecord record;
  TaskState& state = record.state;
  state.id = NewId();
  state.caller = caller;
  state.executor = spec.executor;
  state.target = spec.target;
  state.context = spec.context;
  state.created = now_;
  state.children = static_cast<int32_t>(spec.children.size());
  record.priority = spec.priority;
  record.retry = spec.retry;
  record.timeouts = spec.timeouts;
  record.retain = spec.retain.count() > 0 ? spec.retain : options_.retain;
  record.gather = spec.gather;
  record.key = key;
  record.drive = now_;
  if (parent != nullptr) {
    state.parent = parent->state.id;
    state.index = index;
    record.outlives_parent = spec.outlives_parent;
    if (state.context.empty()) state.context = parent->state.context;
    step.writes[ChildKey(state.parent, index)] = state.id;
  }
  if (spec.not_before > now_) {
    state.ready = spec.not_before;
    SetStatus(record, TaskStatus::kScheduled);
  } else {
    MakeReady(record, step);
  }
  AddEvent(record, {.kind = TaskEventKind::kSubmitted, .ready = state.ready}, step);
  step.writes[WorkKey(state.id)] = Encode(TaskWork{spec.input, spec.labels, spec.children});
  if (absl::Status s = Put(nullptr, record, step); !s.ok()) return s;
  return record;
}

absl::Status TaskLedger::CheckRoom(const std::string& caller, int64_t more) const {
  const auto of_caller = live_by_caller_.find(caller);
  const int64_t live_of_caller = of_caller == live_by_caller_.end() ? 0 : of_caller->second;
  const int64_t live = live_ + unmade_;
  if (live + more <= options_.limits.live && live_of_caller + more <= options_.limits.live_per_caller)
    return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("too many tasks are not over (", live_of_caller,
                                                   " of this caller, ", live,
                                                   " in all); wait for some to end, or cancel them"));
}

absl::StatusOr<TaskSubmitted> TaskLedger::Submit(const TaskSubmission& submission, TaskTime now,
                                                 TaskStep& step) {
  Advance(now);
  if (absl::Status s = CheckTask(submission, options_.limits); !s.ok()) return s;
  uint64_t content = 0;
  std::string key;
  if (!submission.key.empty()) {
    content = ContentHash(Encode(submission.spec)).low;
    key = KeyKey(submission.caller, submission.key);
    const absl::StatusOr<std::optional<std::string>> bytes = Get(step, key);
    if (!bytes.ok()) return bytes.status();
    if (bytes->has_value() && !OMNI_TASK_PLANTED(kKeyForgotten)) {
      const absl::StatusOr<TaskKey> known = DecodeTaskKey(**bytes);
      if (!known.ok()) return known.status();
      if (known->content != content && !OMNI_TASK_PLANTED(kKeyContentUnchecked))
        return absl::AlreadyExistsError(
            absl::StrCat("the idempotency key ", Quoted(submission.key),
                         " was used for another task, whose content differs; use a new key for new work"));
      OMNI_TASK_REACHED(kSubmittedAgain);
      absl::StatusOr<TaskRecord> record = FindRecord(known->id, step);
      if (!record.ok()) return record.status();
      return TaskSubmitted{std::move(record->state), true};
    }
  }
  const int64_t more = 1 + static_cast<int64_t>(submission.spec.children.size());
  if (absl::Status s = CheckRoom(submission.caller, more); !s.ok()) return s;
  absl::StatusOr<TaskRecord> record =
      Insert(submission.caller, submission.key, submission.spec, nullptr, 0, step);
  if (!record.ok()) return record.status();
  if (!key.empty()) step.writes[key] = Encode(TaskKey{record->state.id, content});
  return TaskSubmitted{std::move(record->state), false};
}

absl::StatusOr<TaskState> TaskLedger::Cancel(const TaskClient& by, std::string_view id, TaskTime now,
                                             TaskStep& step) {
  Advance(now);
  const absl::StatusOr<TaskRecord> before = Find(by, id, step);
  if (!before.ok()) return before.status();
  if (IsOver(before->state.status) && !OMNI_TASK_PLANTED(kCancelledWhenOver))
    return absl::FailedPreconditionError(
        absl::StrCat("task ", Quoted(id), " is over already and cannot be cancelled"));
  if (before->state.cancel_requested) return before->state;
  TaskRecord record = *before;
  record.state.cancel_requested = true;
  AddEvent(record, {.kind = TaskEventKind::kCancelRequested, .name = by.caller}, step);
  if (record.state.status == TaskStatus::kRunning) {
    step.ended.push_back(record.lease.token);
  } else {
    End(record, TaskStatus::kCancelled, kErrorCancelled, "", step);
  }
  if (absl::Status s = Put(&*before, record, step); !s.ok()) return s;
  return record.state;
}

absl::StatusOr<TaskRecord> TaskLedger::HandInAgain(const TaskRecord& before, TaskRecord record,
                                                   const std::string& by, TaskStep& step) {
  TaskState& state = record.state;
  ++state.retries;
  state.failures = state.losses = 0;
  state.cancel_requested = false;
  state.ended = state.ready = {};
  state.children_over = state.children_succeeded = 0;
  record.children_made = 0;
  record.drive = now_;
  MakeReady(record, step);
  AddEvent(record, {.kind = TaskEventKind::kRetried, .name = by}, step);
  step.writes[ResultKey(state.id)] = std::nullopt;
  if (orphaning_.erase(state.id) > 0) {
    OMNI_TASK_REACHED(kRetriedWhileChildrenAreCancelled);
    step.writes[OrphansKey(state.id)] = std::nullopt;
  }
  if (absl::Status s = Put(&before, record, step); !s.ok()) return s;
  return record;
}

absl::StatusOr<TaskState> TaskLedger::Retry(const TaskClient& by, std::string_view id, TaskTime now,
                                            TaskStep& step) {
  Advance(now);
  const absl::StatusOr<TaskRecord> before = Find(by, id, step);
  if (!before.ok()) return before.status();
  if (before->state.status != TaskStatus::kFailed && before->state.status != TaskStatus::kCancelled)
    return absl::FailedPreconditionError(absl::StrCat(
        "task ", Quoted(id), " has neither failed nor been cancelled; only such a task is tried again"));
  // Those of its children that succeeded are not made again, but count until it comes to them.
  if (absl::Status s = CheckRoom(before->state.caller, 1 + before->state.children); !s.ok()) return s;
  absl::StatusOr<TaskRecord> record = HandInAgain(*before, *before, by.caller, step);
  if (!record.ok()) return record.status();
  if (before->state.parent.empty()) return record->state;
  // A parent that waits for its other children waits for this one again.
  const absl::StatusOr<TaskRecord> parent = FindRecord(before->state.parent, step);
  if (failed_) return parent.status();
  if (!parent.ok() || parent->state.status != TaskStatus::kWaiting ||
      before->state.index >= parent->children_made)
    return record->state;
  TaskRecord waiting = *parent;
  --waiting.state.children_over;
  if (absl::Status s = Put(&*parent, waiting, step); !s.ok()) return s;
  return record->state;
}

void TaskLedger::Decided(bool lasts) { (lasts ? lasting_ : counts_) = lasts ? counts_ : lasting_; }

void TaskLedger::PurgeRecord(const TaskRecord& record, TaskStep& step) {
  const TaskState& state = record.state;
  for (std::string key : {OverKey(state.id), WorkKey(state.id), ResultKey(state.id), OrphansKey(state.id),
                          OfKey(state.caller, state.updated, state.id), AllKey(state.updated, state.id),
                          DeadKey(state.updated, state.id), RetainKey(state.ended + record.retain, state.id)})
    step.writes[std::move(key)] = std::nullopt;
  if (!record.key.empty()) step.writes[KeyKey(state.caller, record.key)] = std::nullopt;
  step.writes[PurgeKey(state.id)] = "";
  step.changed.insert(state.id);
  orphaning_.erase(state.id);
  purging_.insert(state.id);
}

absl::Status TaskLedger::Purge(const TaskClient& by, std::string_view id, TaskTime now, TaskStep& step) {
  Advance(now);
  const absl::StatusOr<TaskRecord> record = Find(by, id, step);
  if (!record.ok()) return record.status();
  if (!IsOver(record->state.status))
    return absl::FailedPreconditionError(absl::StrCat("task ", Quoted(id), " is not over; cancel it first"));
  if (orphaning_.contains(record->state.id))
    return absl::FailedPreconditionError(
        absl::StrCat("task ", Quoted(id), "'s children are being cancelled; try again"));
  PurgeRecord(*record, step);
  return absl::OkStatus();
}

}  // namespace omni
