// Executors and the tasks that they have.
#include <algorithm>
#include <vector>

#include <absl/strings/str_cat.h>

#include "actors/task/task_ledger.h"
#include "engine/base/quoted.h"
#include "engine/base/simulated.h"

namespace omni {

absl::StatusOr<TaskRecord> TaskLedger::FindLeased(std::string_view token, TaskTime now,
                                                  const TaskStep& step) {
  Advance(now);
  const auto lease = leases_.find(token);
  if (lease != leases_.end() && !ending_.contains(lease->second.id)) {
    // Whoever was paused for longer than its lease is late, even if nobody has noticed yet.
    if (now_ < lease->second.ends || OMNI_TASK_PLANTED(kLateReportTaken))
      return FindRecord(lease->second.id, step);
    OMNI_TASK_REACHED(kLateReport);
  }
  ++counts_.refused_tokens;
  return absl::FailedPreconditionError(
      "the lease is over: the task was taken away, or is over; stop working on it");
}

absl::StatusOr<std::optional<TaskAssignment>> TaskLedger::Take(std::string_view worker, std::string_view node,
                                                               std::span<const TaskOffer> offers,
                                                               TaskTime now, TaskStep& step) {
  Advance(now);
  const std::optional<TaskId> id = queue_.Next(offers);
  if (!id.has_value()) return std::nullopt;
  const absl::StatusOr<TaskRecord> before = FindRecord(*id, step);
  if (!before.ok()) return before.status();
  TaskRecord record = *before;
  TaskAssignment given;
  if (absl::Status s = ReadWork(record, given, step); !s.ok()) {
    if (failed_) return s;
    // It cannot be run, and would be the next one for ever.
    End(record, TaskStatus::kFailed, kErrorInvalid, std::string(s.message()), step);
    step.queued = true;
    if (absl::Status put = Put(&*before, record, step); !put.ok()) return put;
    return std::nullopt;
  }
  SetStatus(record, TaskStatus::kRunning);
  ++record.state.attempt;
  ++counts_.attempts;
  record.state.node = node;
  record.state.ready = {};
  // A counter would begin again, and with it an old token would be good again; so would a worker's name.
  record.lease = {NewId(), std::string(worker), now_, now_ + options_.lease, 0};
  if (OMNI_TASK_PLANTED(kTokenReused)) record.lease.token = worker;
  if (OMNI_TASK_PLANTED(kTokenCounted)) record.lease.token = absl::StrCat(counts_.attempts);
  AddEvent(record, {.kind = TaskEventKind::kStarted, .node = std::string(node)}, step);
  if (absl::Status s = Put(&*before, record, step); !s.ok()) return s;
  given.state = record.state;
  given.token = record.lease.token;
  given.points = record.points;
  given.lease = options_.lease;
  given.retain = record.retain;
  if (record.timeouts.run.count() > 0) given.deadline = now_ + record.timeouts.run;
  return given;
}

absl::Status TaskLedger::ReadWork(const TaskRecord& record, TaskAssignment& given,
                                  const TaskStep& step) const {
  absl::StatusOr<TaskWork> work = FindWork(record.state.id, step);
  if (!work.ok()) return work.status();
  given.work = *std::move(work);
  for (int64_t p = 1; p <= record.points; ++p) {
    const absl::StatusOr<std::optional<std::string>> piece = Get(step, PointKey(record.state.id, p));
    if (!piece.ok()) return piece.status();
    if (!piece->has_value()) return absl::DataLossError("a piece of its checkpoint is gone");
    given.checkpoint += **piece;
  }
  return absl::OkStatus();
}

absl::Status TaskLedger::CheckReport(const TaskReport& report) const {
  const TaskLimits& limits = options_.limits;
  if (report.items.size() > limits.report_events)
    return absl::InvalidArgumentError(absl::StrCat("a report has at most ", limits.report_events, " events"));
  size_t bytes = report.checkpoint.size();
  for (const TaskReport::Item& item : report.items) {
    bytes += item.data.size();
    if (item.data.size() > limits.event_bytes || item.name.size() > limits.word_bytes)
      return absl::InvalidArgumentError(
          absl::StrCat("an event has at most ", limits.event_bytes, " bytes, its name ", limits.word_bytes));
    if (item.kind != TaskEventKind::kOutput && item.kind != TaskEventKind::kProgress &&
        item.kind != TaskEventKind::kArtifact)
      return absl::InvalidArgumentError("an executor reports output, progress and artifacts only");
  }
  if (bytes > limits.report_bytes)
    return absl::InvalidArgumentError(absl::StrCat("a report has at most ", limits.report_bytes, " bytes"));
  return absl::OkStatus();
}

absl::Status TaskLedger::AddReport(TaskRecord& record, const TaskReport& report, TaskStep& step) {
  if (absl::Status s = CheckReport(report); !s.ok()) return s;
  if (report.number != 0) {
    if (report.number <= record.lease.reports && !OMNI_TASK_PLANTED(kReportTakenTwice)) {
      OMNI_TASK_REACHED(kReportedAgain);  // its answer was lost
      return absl::OkStatus();
    }
    record.lease.reports = report.number;
  }
  size_t bytes = report.checkpoint.size();
  for (const TaskReport::Item& item : report.items) bytes += item.data.size();
  // One without any can always be made: a lease goes on, and a task ends.
  if (bytes > 0 && record.log_bytes + static_cast<int64_t>(bytes) > options_.limits.log_bytes)
    return absl::OutOfRangeError(absl::StrCat("the task's events have ", record.log_bytes,
                                              " bytes, and may have ", options_.limits.log_bytes,
                                              "; put what is large into artifacts"));
  for (const TaskReport::Item& item : report.items)
    AddEvent(record, {.kind = item.kind, .node = record.state.node, .name = item.name, .data = item.data},
             step);
  if (!report.checkpoint.empty()) {
    step.writes[PointKey(record.state.id, ++record.points)] = report.checkpoint;
    record.log_bytes += static_cast<int64_t>(report.checkpoint.size());
  }
  return absl::OkStatus();
}

absl::StatusOr<TaskLedger::Told> TaskLedger::Report(std::string_view token, const TaskReport& report,
                                                    TaskTime now, TaskStep& step) {
  const absl::StatusOr<TaskRecord> before = FindLeased(token, now, step);
  if (!before.ok()) return before.status();
  TaskRecord record = *before;
  if (absl::Status s = AddReport(record, report, step); !s.ok()) return s;
  if (!OMNI_TASK_PLANTED(kHeartbeatIgnored)) record.lease.ends = now_ + options_.lease;
  if (absl::Status s = Put(&*before, record, step); !s.ok()) return s;
  return Told{record.lease.ends, record.state.cancel_requested};
}

absl::Status TaskLedger::Succeed(std::string_view token, const TaskReport& last, const std::string& result,
                                 TaskTime now, TaskStep& step) {
  if (result.size() > options_.limits.result_bytes)
    return absl::InvalidArgumentError(absl::StrCat("a result has at most ", options_.limits.result_bytes,
                                                   " bytes; put what is large into artifacts"));
  const absl::StatusOr<TaskRecord> before = FindLeased(token, now, step);
  if (!before.ok()) return before.status();
  TaskRecord record = *before;
  if (absl::Status s = AddReport(record, last, step); !s.ok()) return s;
  End(record, TaskStatus::kSucceeded, "", "", step);
  step.writes[ResultKey(record.state.id)] = result;
  return Put(&*before, record, step);
}

absl::Status TaskLedger::Fail(std::string_view token, const TaskReport& last, const std::string& error,
                              const std::string& message, TaskTime now, TaskStep& step) {
  const absl::StatusOr<TaskRecord> before = FindLeased(token, now, step);
  if (!before.ok()) return before.status();
  TaskRecord record = *before;
  if (absl::Status s = AddReport(record, last, step); !s.ok()) return s;
  FailAttempt(record, error.substr(0, options_.limits.word_bytes),
              message.substr(0, options_.limits.message_bytes), step);
  return Put(&*before, record, step);
}

absl::Status TaskLedger::Return(std::string_view token, TaskTime now, TaskStep& step) {
  const absl::StatusOr<TaskRecord> before = FindLeased(token, now, step);
  if (!before.ok()) return before.status();
  TaskRecord record = *before;
  GiveBack(record, step);
  return Put(&*before, record, step);
}

void TaskLedger::GiveBack(TaskRecord& record, TaskStep& step) {
  record.lease = {};
  if (record.state.cancel_requested) {
    End(record, TaskStatus::kCancelled, kErrorCancelled, "", step);
  } else {
    MakeReady(record, step);
    AddEvent(record, {.kind = TaskEventKind::kReturned, .node = record.state.node}, step);
  }
}

void TaskLedger::EndLeases(std::string_view node, std::string_view but_worker, TaskTime now) {
  Advance(now);
  for (const auto& [token, lease] : leases_)
    if (lease.node == node && lease.worker != but_worker) ending_.emplace(lease.id, EndedLease::kLost);
}

void TaskLedger::ReturnLeases(std::string_view node, std::string_view worker, TaskTime now) {
  Advance(now);
  for (const auto& [token, lease] : leases_)
    if (lease.node == node && lease.worker == worker) ending_.emplace(lease.id, EndedLease::kReturned);
}

absl::Status TaskLedger::EndLease(TaskId id, EndedLease how, TaskStep& step) {
  const absl::StatusOr<TaskRecord> before = FindRecord(id, step);
  if (!before.ok()) return before.status();
  TaskRecord record = *before;
  if (how == EndedLease::kLost) {
    FailAttempt(record, kErrorLost, "its executor's process ended", step);
  } else {
    GiveBack(record, step);
  }
  return Put(&*before, record, step);
}

}  // namespace omni
