#include "tests/testing/task_simulation/oracle.h"

#include <absl/strings/numbers.h>

namespace omni::simulation {
namespace {

std::string_view Rest(const std::string& key, std::string_view prefix) {
  return std::string_view(key).substr(prefix.size());
}

}  // namespace

void TaskOracle::OnApplied(const std::vector<RecordChange>& changes) {
  retried_.clear();
  lost_.clear();
  changed_.clear();
  purging_.clear();
  for (const RecordChange& change : changes)
    if (change.key.starts_with(kPurgePrefix)) purging_.emplace(Rest(change.key, kPurgePrefix));
  for (const RecordChange& change : changes) {
    const std::string& key = change.key;
    if (key.starts_with("event/")) OnEvent(Rest(key, "event/").substr(0, 32), change);
    if (key.starts_with(kWorkPrefix) && change.before.has_value() && change.after.has_value())
      Fail(Rest(key, kWorkPrefix), "what was handed in was changed");
  }
  // What was purged first: its key may be another's in the same write.
  for (const bool purged : {true, false}) {
    for (const RecordChange& change : changes) {
      for (const std::string_view prefix : {kLivePrefix, kOverPrefix}) {
        if (!change.key.starts_with(prefix)) continue;
        const std::string id(Rest(change.key, prefix));
        if (purged) {
          if (!change.after.has_value() && change.before.has_value() && purging_.contains(id)) OnPurged(id);
          continue;
        }
        if (!change.after.has_value()) continue;
        const absl::StatusOr<TaskRecord> record = DecodeTaskRecord(*change.after);
        if (!record.ok()) return Fail(id, record.status().message());
        if (IsOver(record->state.status) != (prefix == kOverPrefix)) Fail(id, "its record is misplaced");
        OnRecord(id, *record);
      }
    }
  }
  for (const RecordChange& change : changes) {
    for (const std::string_view prefix : {kLivePrefix, kOverPrefix}) {
      if (!change.key.starts_with(prefix) || change.after.has_value() || !change.before.has_value()) continue;
      const std::string id(Rest(change.key, prefix));
      if (!purging_.contains(id) && !changed_.contains(id)) Fail(id, "its record is gone");
    }
  }
  for (const TaskId& id : changed_) {
    const Task& task = tasks_[id];
    if (task.record.has_value() && task.record->state.children > 0) CheckGather(*task.record);
  }
}

void TaskOracle::OnEvent(std::string_view id, const RecordChange& change) {
  Task& task = tasks_[TaskId(id)];
  if (!change.after.has_value()) {
    if (change.before.has_value() && task.record.has_value() && !purging_.contains(TaskId(id)))
      Fail(id, "loses an event");
    return;
  }
  const absl::StatusOr<TaskEvent> event = DecodeTaskEvent(*change.after);
  if (!event.ok()) return Fail(id, event.status().message());
  if (change.before.has_value()) Fail(id, "event ", event->number, " is written again");
  if (event->number != static_cast<int64_t>(task.events.size()) + 1 ||
      EventKey(id, event->number) != change.key)
    Fail(id, "event ", event->number, " comes after ", task.events.size());
  task.events.push_back(*change.after);
  world_.world.Trace("  ", absl::string_view(id.data(), 4), " event ", event->number, " kind ",
                     static_cast<int>(event->kind), " attempt ", event->attempt, " ", event->name, " ",
                     event->data);
  const TaskEventKind kind = event->kind;
  if ((kind == TaskEventKind::kSubmitted) != (event->number == 1)) Fail(id, "is handed in twice, or never");
  if (kind == TaskEventKind::kRetried) {
    if (!task.over) Fail(id, "is retried before it is over");
    task.over = false;
    retried_.emplace(id);
    return;
  }
  if (task.over) Fail(id, "is over, and has an event ", static_cast<int>(kind), " all the same");
  if (kind == TaskEventKind::kOver) task.over = true;
  if ((kind == TaskEventKind::kOver || kind == TaskEventKind::kAttemptFailed) && event->name == kErrorLost)
    lost_.emplace(id, event->time);
  if (kind == TaskEventKind::kOutput && !task.outputs.insert(event->data).second)
    Fail(id, "has the output ", event->data, " twice");
  if (kind == TaskEventKind::kProgress && event->data != absl::StrCat("step ", ++task.steps))
    Fail(id, "its step ", task.steps, " is reported as ", event->data);
}

void TaskOracle::OnRecord(std::string_view id, const TaskRecord& record) {
  const TaskState& state = record.state;
  Task& task = tasks_[TaskId(id)];
  const std::optional<TaskRecord> before = task.record;
  if (!before.has_value()) {
    if (task.events.size() < 1) Fail(id, "begins without an event");
    if (!record.key.empty() && !keys_.try_emplace({state.caller, record.key}, id).second)
      Fail(id, "is another task of the key ", record.key);
    if (!state.parent.empty() && !children_.try_emplace({state.parent, state.index}, id).second)
      Fail(id, "is another child ", state.index, " of ", state.parent);
    if (!state.parent.empty()) purged_.erase({state.parent, state.index});
  } else if (!IsOver(before->state.status)) {
    --by_status_[static_cast<size_t>(before->state.status)];
    --live_;
  }
  if (!IsOver(state.status)) {
    ++by_status_[static_cast<size_t>(state.status)];
    ++live_;
  }
  if (state.last_event != static_cast<int64_t>(task.events.size()))
    Fail(id, "has ", task.events.size(), " events and says ", state.last_event);
  if (IsOver(state.status) != task.over) Fail(id, "its record and its events differ on whether it is over");
  if (record.points != task.steps)
    Fail(id, task.steps, " steps and ", record.points, " pieces of checkpoint");
  CheckLease(TaskId(id), before, record);
  task.record = record;
  changed_.emplace(id);
}

void TaskOracle::CheckLease(const TaskId& id, const std::optional<TaskRecord>& before,
                            const TaskRecord& record) {
  const bool runs = record.state.status == TaskStatus::kRunning;
  const std::string was = before.has_value() ? before->lease.token : "";
  if (runs == record.lease.token.empty()) Fail(id, "runs without a lease, or has one without running");
  if (!was.empty() && was != record.lease.token) {
    Token& token = tokens_[was];
    token.ended = round_;
    const auto lost = lost_.find(id);
    if (lost != lost_.end() && !token.gone && lost->second < token.ends)
      Fail(id, "is taken for lost while its lease is good");
  }
  if (!runs || record.lease.token == was) return;
  const auto [token, is_new] = tokens_.try_emplace(record.lease.token);
  if (!is_new) Fail(id, "has the token of an earlier lease");
  token->second = {.id = id,
                   .node = record.state.node,
                   .worker = record.lease.worker,
                   .began = record.lease.began,
                   .ends = record.lease.began + lease_,
                   .ended = std::nullopt};
}

void TaskOracle::OnPurged(std::string_view id) {
  Task& task = tasks_[TaskId(id)];
  if (!task.record.has_value()) return;
  const TaskRecord& record = *task.record;
  if (!task.over) Fail(id, "is purged before it is over");
  const TaskStatus status = DecodeTaskEvent(task.events.back())->status;
  if (!IsOver(record.state.status)) {
    --by_status_[static_cast<size_t>(record.state.status)];
    --live_;
    if (!record.lease.token.empty()) tokens_[record.lease.token].ended = round_;
  }
  if (!record.key.empty()) keys_.erase({record.state.caller, record.key});
  if (!record.state.parent.empty()) {
    children_.erase({record.state.parent, record.state.index});
    purged_[{record.state.parent, record.state.index}] = status;
  }
  task.record.reset();
}

void TaskOracle::CheckGather(const TaskRecord& parent) {
  const TaskState& state = parent.state;
  int32_t over = 0, succeeded = 0;
  for (int32_t index = 0; index < state.children; ++index) {
    TaskStatus status = TaskStatus::kQueued;  // or not made
    const auto child = children_.find({state.id, index});
    const auto gone = purged_.find({state.id, index});
    if (child != children_.end()) {
      // What became of it afterwards, in the same write, says nothing about its parent.
      if (retried_.contains(child->second)) return;
      status = tasks_[child->second].record->state.status;
    } else if (gone != purged_.end()) {
      status = gone->second;
    }
    over += IsOver(status);
    succeeded += status == TaskStatus::kSucceeded;
  }
  if (state.status == TaskStatus::kWaiting && state.children_over > over)
    Fail(state.id, "counts ", state.children_over, " children that are over, of ", over);
  if (!IsOver(state.status) || state.status == TaskStatus::kCancelled) return;
  if (state.status == TaskStatus::kFailed && state.error != kErrorChildren) return;
  const bool all_over = over == state.children, any_failed = over > succeeded;
  if (state.status == TaskStatus::kSucceeded) {
    if (parent.gather == TaskGather::kAny ? succeeded == 0 : succeeded < state.children)
      Fail(state.id, "succeeds with ", succeeded, " of ", state.children, " children");
  } else if (!any_failed || (parent.gather == TaskGather::kAny && succeeded > 0) ||
             (parent.gather != TaskGather::kAllFast && !all_over)) {
    Fail(state.id, "fails while ", succeeded, " of ", state.children, " children succeeded and ", over,
         " are over");
  }
}

void TaskOracle::OnLoaded() {
  for (auto& [name, token] : tokens_) {
    if (token.ended.has_value()) continue;
    token.ends = now_() + lease_;
    token.gone = token.refused = false;
  }
}

void TaskOracle::OnSubmitted(const TaskSubmission& submission, const TaskSubmitted& answer,
                             const Records& records) {
  const TaskId& id = answer.state.id;
  const auto task = tasks_.find(id);
  if (task == tasks_.end()) return Fail(id, "was acknowledged and is not written");
  const auto bytes = records.find(WorkKey(id));
  if (bytes == records.end()) return;  // purged in the same round
  const absl::StatusOr<TaskWork> work = DecodeTaskWork(bytes->second);
  if (!work.ok() || work->input != submission.spec.input)
    Fail(id, "is given for what is another piece of work, under the same key");
}

void TaskOracle::OnTaken(const TaskAssignment& given) {
  const auto token = tokens_.find(given.token);
  if (token == tokens_.end() || token->second.id != given.state.id)
    return Fail(given.state.id, "is lent with a token that is not written");
  std::string pieces;
  for (int64_t step = 1; step <= given.points; ++step) pieces += absl::StrCat(step, ";");
  if (given.checkpoint != pieces) Fail(given.state.id, "its checkpoint is ", given.checkpoint);
}

void TaskOracle::OnAccepted(const std::string& name, bool ends, TaskTime time) {
  const auto at = tokens_.find(name);
  if (at == tokens_.end()) return Fail("?", "a token that nobody was given is accepted");
  Token& token = at->second;
  if (time >= token.ends) Fail(token.id, "a token is accepted after its lease");
  if (token.completed) Fail(token.id, "a token is accepted after the end that it gave");
  if (token.refused) Fail(token.id, "a token of a process that is gone is accepted");
  if (token.ended.has_value() && *token.ended < round_)
    Fail(token.id, "a token is accepted that was taken away");
  token.ends = time + lease_;
  token.completed = ends;
}

void TaskOracle::OnLeasesEnded(const std::string& node, const std::string& but_worker, TaskTime at) {
  for (auto& [name, token] : tokens_)
    if (token.node == node && token.worker != but_worker) {
      token.gone = true;
      token.refused = token.began < at;  // others were lent afterwards
    }
}

void TaskOracle::OnCounts(const TaskCounts& counts, int64_t live) {
  if (live != live_)
    world_.world.Fail(absl::StrCat("the ledger counts ", live, " tasks that are not over, of ", live_));
  for (int status = 1; status < static_cast<int>(TaskStatus::kSucceeded); ++status) {
    const auto s = static_cast<size_t>(status);
    if (counts.by_status[s] != by_status_[s])
      world_.world.Fail(absl::StrCat("the ledger counts ", counts.by_status[s], " of status ", status,
                                     ", of ", by_status_[s]));
  }
}

}  // namespace omni::simulation
