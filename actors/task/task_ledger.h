// What is true of every task, and what may be done to it.
//
// Problem: a server is killed between any two instructions, an executor is paused and comes back when
// somebody else has its task, a client asks twice. Each task must still end once in its log, and what was
// acknowledged must have happened.
//
// Every call reads records, decides, and adds to a step what has to be written; nothing of it is true, and
// nobody may be told of it, before the step's writes last. If they fail, the ledger is loaded again and with
// that has forgotten them. Who has a task is said by a token that is drawn at random and never again: whoever
// comes with another one is refused, whatever its name is. In memory are only the order in which tasks wait
// and the times at which something is due, both of which follow from the records.
//
// No threads, disk or clock of its own: the same calls on the same store with the same numbers drawn give the
// same steps, so that a simulator can use it. One thread.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/task/task.h"
#include "actors/task/task_queue.h"
#include "actors/task/task_record.h"
#include "store/state/record_store.h"

namespace omni {

// What must last before anybody is told of what made it.
struct TaskStep {
  RecordWrites writes;
  std::set<TaskId> changed;        // have new events
  std::vector<std::string> ended;  // leases that were taken away or whose tasks are to be cancelled: their
                                   // executors stop, or find out when they report
  bool queued = false;             // one waits for an executor that did not before
};

// Who asks. Another's task is as good as none.
struct TaskClient {
  std::string caller;
  bool all = false;  // may see and change everybody's
};

struct TaskSubmission {
  std::string caller;
  std::string key;  // idempotency key; empty: none
  TaskSpec spec;
};

struct TaskSubmitted {
  TaskState state;
  bool again = false;  // it was handed in before, under the same key
};

struct TaskAssignment {
  TaskState state;  // of which `attempt` is this one's
  std::string token;
  TaskWork work;
  std::string checkpoint;  // all pieces of earlier attempts, one after another
  int64_t points = 0;
  TaskDuration lease{0};   // from now; every report begins it anew
  TaskTime deadline{};     // of the attempt
  TaskDuration retain{0};  // for how long it is kept after its end
};

// What an executor tells while it has a task. All of it lasts or nothing.
struct TaskReport {
  struct Item {
    TaskEventKind kind = TaskEventKind::kOutput;  // kOutput, kProgress or kArtifact
    std::string name, data;
  };
  std::vector<Item> items = {};
  std::string checkpoint = {};  // one more piece; empty: none
  // 1, 2, 3 … of an attempt, so that one whose answer was lost may be told again; 0: it is never told twice.
  int64_t number = 0;
};

struct TaskCounts {
  std::array<int64_t, kTaskStatuses + 1> by_status = {};  // of those not over, by TaskStatus
  int64_t succeeded = 0, failed = 0, cancelled = 0;       // since the ledger was made
  int64_t attempts = 0, lost = 0, refused_tokens = 0;
};

class TaskLedger {
 public:
  struct Options {
    TaskLimits limits = {};
    TaskDuration lease = std::chrono::seconds(15);
    TaskDuration retain = std::chrono::hours(24 * 7);
    std::function<uint64_t()> random = {};  // what nobody can guess
  };

  // The store outlives the ledger. Load comes first.
  TaskLedger(RecordStore& store, Options options);

  // Reads what there is. Leases begin anew, whatever the clock was when they were given.
  absl::Status Load(TaskTime now);

  // Errors of all calls below: those of the store; and NotFound: there is no such task, or it is another's.
  // Times never go back: an earlier one counts as the last.

  // InvalidArgument: names what is wrong with it. AlreadyExists: its key was used for something else.
  // ResourceExhausted: too many are not over.
  absl::StatusOr<TaskSubmitted> Submit(const TaskSubmission& submission, TaskTime now, TaskStep& step);
  // One that runs goes on until its executor stops or is done, whichever is recorded first.
  // FailedPrecondition: it is over.
  absl::StatusOr<TaskState> Cancel(const TaskClient& by, std::string_view id, TaskTime now, TaskStep& step);
  // Hands in again one that failed or was cancelled; children that succeeded stay. FailedPrecondition: it did
  // not.
  absl::StatusOr<TaskState> Retry(const TaskClient& by, std::string_view id, TaskTime now, TaskStep& step);
  // Forgets one that is over. FailedPrecondition: it is not.
  absl::Status Purge(const TaskClient& by, std::string_view id, TaskTime now, TaskStep& step);

  // The next task for a worker of a node; none: nothing waits that it offers to run.
  absl::StatusOr<std::optional<TaskAssignment>> Take(std::string_view worker, std::string_view node,
                                                     std::span<const TaskOffer> offers, TaskTime now,
                                                     TaskStep& step);
  // Of the calls below: FailedPrecondition, the token is not that of a lease; its holder stops.
  // InvalidArgument, what is told is too much at once, OutOfRange, in all: telling it again does not help.
  struct Told {
    TaskTime lease_ends{};
    bool cancel = false;  // it should stop, and fail with kErrorCancelled
  };
  absl::StatusOr<Told> Report(std::string_view token, const TaskReport& report, TaskTime now, TaskStep& step);
  absl::Status Succeed(std::string_view token, const TaskReport& last, const std::string& result,
                       TaskTime now, TaskStep& step);
  absl::Status Fail(std::string_view token, const TaskReport& last, const std::string& error,
                    const std::string& message, TaskTime now, TaskStep& step);
  absl::Status Return(std::string_view token, TaskTime now, TaskStep& step);  // undone; no attempt is counted
  // Ends the leases of all workers of the node but this one: they were of processes that are gone. Their
  // tokens are refused from now on, and Settle hands their tasks on.
  void EndLeases(std::string_view node, std::string_view but_worker, TaskTime now);
  // Likewise what this worker still has: it ended in order, and was never told that it had them. No attempt
  // is counted.
  void ReturnLeases(std::string_view node, std::string_view worker, TaskTime now);

  // InvalidArgument; ResourceExhausted: too many. Takes the place of one of the same name.
  absl::Status PutSchedule(TaskSchedule schedule, TaskTime now, TaskStep& step);
  absl::Status DeleteSchedule(std::string_view caller, std::string_view name, TaskStep& step);

  // Whoever is told of a task's events, and of which task: those after `push.told`, or all that there will be
  // from now on if that is negative. Takes the place of the one of that name; if that has the same address,
  // what he was told he need not be told again, and what he was not told he is. InvalidArgument;
  // ResourceExhausted: too many.
  absl::StatusOr<TaskPush> PutPush(const TaskClient& by, TaskPush push, TaskTime now, TaskStep& step);
  // NotFound also if there is none of that name.
  absl::Status DeletePush(const TaskClient& by, std::string_view id, std::string_view name, TaskStep& step);
  // He was told, at `url`, of all events up to number `told`. Nothing, if he is to be told no more, or
  // elsewhere.
  absl::Status Pushed(std::string_view id, std::string_view name, std::string_view url, int64_t told,
                      TaskStep& step);

  // What one of the calls above, or one thing that Settle does, changes at most, beside a report's events.
  static constexpr size_t kMostChanges = 24;
  // Does what is due, until the step has `changes`; the last thing may exceed that. True: more is due.
  absl::StatusOr<bool> Settle(TaskTime now, size_t changes, TaskStep& step);
  std::optional<TaskTime> next_due() const;  // of what Settle does

  // The store failed in the middle of a call: its step is worth nothing, and Load comes next. A record of a
  // task that is over and cannot be read is no failure: that task alone is left as it is.
  bool failed() const { return failed_; }
  // What was decided since the last call of it lasts; or it does not, Load comes next, and what was counted
  // of it is given back.
  void Decided(bool lasts);
  const TaskCounts& counts() const { return counts_; }
  int64_t live() const { return live_; }  // not over, as far as they are made
  size_t queued() const { return queue_.size(); }

 private:
  enum class EndedLease { kLost, kReturned };
  absl::StatusOr<std::optional<std::string>> Get(const TaskStep& step, std::string_view key) const;
  absl::StatusOr<TaskRecord> Find(const TaskClient& by, std::string_view id, const TaskStep& step) const;
  absl::StatusOr<TaskRecord> FindRecord(std::string_view id, const TaskStep& step) const;
  absl::StatusOr<TaskRecord> FindLeased(std::string_view token, TaskTime now, const TaskStep& step);
  // DataLoss, if the store did not fail: it is not there, or damaged.
  // ResourceExhausted: `more` tasks of the caller's would be too many that are not over.
  absl::Status CheckRoom(const std::string& caller, int64_t more) const;
  absl::StatusOr<TaskWork> FindWork(std::string_view id, const TaskStep& step) const;
  absl::Status ReadWork(const TaskRecord& record, TaskAssignment& given, const TaskStep& step) const;

  void Index(const TaskRecord& record, bool runs_on = false);  // it was running before, too
  void Unindex(const TaskRecord& record, bool runs_on = false);
  void AddEvent(TaskRecord& record, TaskEvent event, TaskStep& step);
  void SetStatus(TaskRecord& record, TaskStatus status);
  // Writes what became of a record (null: there was none), and tells its parent if it is over now.
  absl::Status Put(const TaskRecord* before, const TaskRecord& record, TaskStep& step);
  absl::Status ChildOver(const TaskRecord& child, TaskStep& step);

  absl::StatusOr<TaskRecord> Insert(const std::string& caller, const std::string& key, const TaskSpec& spec,
                                    const TaskRecord* parent, int32_t index, TaskStep& step);
  // `record`: it as it is over, but for its writes.
  absl::StatusOr<TaskRecord> HandInAgain(const TaskRecord& before, TaskRecord record, const std::string& by,
                                         TaskStep& step);
  void MakeReady(TaskRecord& record, TaskStep& step);
  void FailAttempt(TaskRecord& record, const std::string& error, const std::string& message, TaskStep& step);
  void End(TaskRecord& record, TaskStatus status, const std::string& error, const std::string& message,
           TaskStep& step);
  absl::Status CheckReport(const TaskReport& report) const;
  absl::Status AddReport(TaskRecord& record, const TaskReport& report, TaskStep& step);

  // By value: what they come from are the sets that they change.
  absl::Status MakeChildren(TaskId id, size_t changes, TaskStep& step);
  absl::Status CancelChildren(TaskId id, size_t changes, TaskStep& step);
  absl::Status PurgeEvents(TaskId id, size_t changes, TaskStep& step);
  absl::Status PurgeRetained(size_t changes, TaskStep& step);
  absl::Status EndLease(TaskId id, EndedLease how, TaskStep& step);
  void GiveBack(TaskRecord& record, TaskStep& step);
  absl::Status SettleTask(TaskId id, TaskStep& step);
  absl::Status SettleSchedule(std::string key, TaskStep& step);
  void PurgeRecord(const TaskRecord& record, TaskStep& step);
  void SetScheduleDue(const std::string& key, std::optional<TaskTime> due);

  std::optional<TaskTime> DueOf(const TaskRecord& record) const;
  TaskDuration Backoff(const TaskRetry& retry, int32_t failures);
  std::string NewId();
  void Advance(TaskTime now) { now_ = std::max(now_, now); }

  RecordStore& store_;
  const Options options_;
  TaskTime now_{};
  TaskQueue queue_;
  std::set<std::pair<TaskTime, TaskId>> due_;
  struct Lease {
    TaskId id;
    std::string node, worker;
    TaskTime ends;
  };
  std::map<std::string, Lease, std::less<>> leases_;  // by token
  std::map<TaskId, EndedLease> ending_;               // running, on behalf of a process that is gone
  // Children of fan-outs that are still to be made count from the moment that their fan-out is accepted.
  std::map<std::string, int64_t> live_by_caller_;  // those with them
  int64_t live_ = 0, unmade_ = 0;
  int64_t pushes_ = 0;
  std::set<TaskId> making_;                                    // fan-outs whose children are not all made
  std::set<TaskId> orphaning_, purging_;                       // whose children, whose events have to go
  std::set<std::pair<TaskTime, std::string>> plans_;           // by when they are due: keys
  std::map<std::string, std::optional<TaskTime>> plan_times_;  // by key, all; none: it is paused
  std::optional<TaskTime> next_retained_;  // when the first that is over may go; none: unknown
  TaskCounts counts_, lasting_;
  mutable bool failed_ = false;
};

}  // namespace omni
