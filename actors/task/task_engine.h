// The thread that all changes of tasks go through: it decides on what has come, makes it last with one sync,
// and then says so.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/task/task.h"
#include "actors/task/task_ledger.h"
#include "actors/task/task_reader.h"
#include "store/state/record_store.h"

namespace omni {

// What others do about it; on the engine's thread, so nothing that waits. May call the engine. It is told
// after those who called, so that one who is added then may still be told of what came before: whoever is
// told reads what there is.
class TaskListener {
 public:
  virtual ~TaskListener() = default;
  virtual void OnQueued() {}                                // there is something to take
  virtual void OnEnded(const std::vector<std::string>&) {}  // leases (TaskStep::ended)
  virtual void OnChanged(const std::set<TaskId>&) {}        // tasks that have new events
};

// Who lends tasks to executors: the engine of this process, or another's over the network. What a call gives
// is told once, from any thread; a callback does not wait. Unavailable: what became of it is not known, and
// it may be asked again, except Take, whose task is lost with its lease.
class TaskLender {
 public:
  template <typename T>
  using Done = std::function<void(absl::StatusOr<T>)>;
  using Told = std::function<void(absl::Status)>;

  virtual ~TaskLender() = default;

  virtual void Take(std::string worker, std::string node, std::vector<TaskOffer> offers,
                    Done<std::optional<TaskAssignment>> done) = 0;
  // The same, but if nothing waits it waits itself, no longer than `most`, and has the task with the very
  // sync that accepts it.
  virtual void Await(std::string worker, std::string node, std::vector<TaskOffer> offers, TaskDuration most,
                     Done<std::optional<TaskAssignment>> done) {
    (void)most;
    Take(std::move(worker), std::move(node), std::move(offers), std::move(done));
  }
  virtual void Report(std::string token, TaskReport report, Done<TaskLedger::Told> done) = 0;
  virtual void Succeed(std::string token, TaskReport last, std::string result, Told told) = 0;
  virtual void Fail(std::string token, TaskReport last, std::string error, std::string message,
                    Told told) = 0;
  virtual void Return(std::string token, Told told) = 0;

  // Until RemoveListener has returned, which waits for a call of it that is running, except in such a call.
  virtual void AddListener(TaskListener* listener) = 0;
  virtual void RemoveListener(TaskListener* listener) = 0;
};

struct TaskFigures {
  TaskCounts counts;
  int64_t live = 0, syncs = 0, writes = 0;
  bool draining = false;
  absl::Status store;  // why nothing is accepted at present
};

// Thread-safe. What a call gives is told on the engine's thread, once, when it lasts; a callback does not
// wait. Errors of all calls beside those of the ledger: Unavailable, the store failed, and whether the call
// took effect is unknown (an idempotency key makes it safe to ask again), or the engine stops;
// ResourceExhausted, the disk is full, or more calls wait than may.
class TaskEngine : public TaskLender {
 public:
  struct Options {
    TaskLedger::Options ledger;     // random: null for the system's
    std::function<TaskTime()> now;  // null: the system's clock
    size_t waiting_calls = 1 << 16;
    size_t waiting_bytes = 256 << 20;
    TaskDuration recover_every = std::chrono::seconds(1);  // after the store failed
  };

  // Loads what there is. The store outlives the engine.
  static absl::StatusOr<std::unique_ptr<TaskEngine>> Start(RecordStore& store, Options options);
  // Calls under way end with Unavailable.
  ~TaskEngine() override = default;

  virtual void Submit(TaskSubmission submission, Done<TaskSubmitted> done) = 0;
  virtual void Cancel(TaskClient by, TaskId id, Done<TaskState> done) = 0;
  virtual void Retry(TaskClient by, TaskId id, Done<TaskState> done) = 0;
  virtual void Purge(TaskClient by, TaskId id, Told told) = 0;

  virtual void EndLeases(std::string node, std::string but_worker, Told told) = 0;
  virtual void ReturnLeases(std::string node, std::string worker, Told told) = 0;

  virtual void PutSchedule(TaskSchedule schedule, Told told) = 0;
  virtual void DeleteSchedule(std::string caller, std::string name, Told told) = 0;

  virtual void PutPush(TaskClient by, TaskPush push, Done<TaskPush> done) = 0;
  virtual void DeletePush(TaskClient by, TaskId id, std::string name, Told told) = 0;
  virtual void Pushed(TaskId id, std::string name, std::string url, int64_t up_to, Told told) = 0;

  // Until the engine goes or RemoveListener has returned, which waits for a call of it that is running,
  // except on the engine's thread.
  virtual void AddListener(TaskListener* listener) = 0;
  virtual void RemoveListener(TaskListener* listener) = 0;
  // From now on nothing is accepted or lent; what runs may report and end. Takes effect before it returns.
  virtual void Drain() = 0;
  // The clock was moved; for tests with one of their own.
  virtual void Wake() = 0;

  virtual const TaskReader& reader() const = 0;
  virtual TaskFigures figures() const = 0;
};

}  // namespace omni
