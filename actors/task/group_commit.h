// Decisions of a ledger, many of them made lasting with one sync.
//
// A disk syncs some hundred times a second, however much is written each time. So all calls that have come
// while it was busy are decided one after another, each seeing what those before it decided, and their
// records are written together; only then may anybody be told. If that fails it is unknown whether it was
// written: nothing is decided until the store says which way it was and the ledger has been loaded from it.
//
// No threads: TaskEngine has one for it, and the simulator none. One thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/task/task.h"
#include "actors/task/task_ledger.h"
#include "store/state/record_store.h"

namespace omni {

class TaskGroupCommit {
 public:
  struct Options {
    TaskLedger::Options ledger;
    std::function<TaskTime()> now;
    TaskDuration recover_every = std::chrono::seconds(1);  // after the store failed
  };
  struct Call {
    std::function<void(TaskLedger&, TaskTime, TaskStep&)> decide;
    std::function<void(const absl::Status& written)> tell;
    size_t bytes = 0;  // about as many does it write
  };
  // An executor that waits for a task.
  struct Waiter {
    std::string worker, node;
    std::vector<TaskOffer> offers;
    TaskTime until{};  // {}: it has not begun
    std::function<void(absl::StatusOr<std::optional<TaskAssignment>>)> done;
  };
  struct Served {
    std::shared_ptr<Waiter> waiter;
    absl::StatusOr<std::optional<TaskAssignment>> task;
  };
  // What is to be told now.
  struct Round {
    std::vector<Call> calls;          // in this order
    absl::Status written;             // an error: it is unknown whether what they decided was written
    std::vector<Served> served = {};  // afterwards
    TaskStep news;  // all but its writes; of a round that failed, once it is known what became of it
  };

  // The store outlives it. Load comes first.
  TaskGroupCommit(RecordStore& store, Options options);

  // Errors: those of the ledger's; and FailedPrecondition, the store takes too few changes at once.
  absl::Status Load();
  // Does what is due, and the calls from the front on, as many as go into one write. `lending`: who waits
  // gets what there is then; else nobody waits any longer.
  Round Run(std::deque<Call>& calls, bool lending);
  // From a call's decision: is served by this round or a later one, with a task or, when its time is over,
  // none.
  void Await(std::shared_ptr<Waiter> waiter) { waiters_.push_back(std::move(waiter)); }
  const std::list<std::shared_ptr<Waiter>>& waiters() const { return waiters_; }

  bool more() const { return more_; }  // is due already
  // When something is; if the store failed, when that is tried again.
  std::optional<TaskTime> next_due() const;
  // Why nothing is decided at present.
  const absl::Status& failure() const { return failure_; }
  const TaskLedger& ledger() const { return ledger_; }
  int64_t syncs() const { return syncs_; }
  int64_t writes() const { return writes_; }

 private:
  bool Recover();
  absl::Status Serve(size_t room, bool lending, Round& round);

  RecordStore& store_;
  const Options options_;
  const size_t most_of_call_;  // changes
  TaskLedger ledger_;
  absl::Status failure_;
  TaskStep lost_;         // news of the round that failed
  TaskTime recovered_{};  // when that was last tried
  bool more_ = false;
  std::list<std::shared_ptr<Waiter>> waiters_;  // in the order in which they came
  int64_t syncs_ = 0, writes_ = 0;
};

}  // namespace omni
