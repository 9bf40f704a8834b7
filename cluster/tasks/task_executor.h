// Whoever does the work of a task, and what it sees of it.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "actors/task/task_ledger.h"
#include "actors/task/task_queue.h"

namespace omni {

// An attempt at a task, as its executor has it. Thread-safe.
//
// What is told is kept and reported together now and then; a call waits while too much of it is not yet
// lasting.
class TaskAttempt {
 public:
  virtual ~TaskAttempt() = default;

  virtual const TaskAssignment& task() const = 0;
  virtual void Output(std::string_view stream, std::string_view bytes) = 0;
  virtual void Progress(std::string_view text) = 0;
  virtual void Artifact(std::string_view name, std::string_view where) = 0;
  // One more piece of its checkpoint. It lasts with all that was told before it and nothing that is told
  // after: an attempt that goes on from its pieces repeats no output. So once a piece was told, what comes
  // after one waits for the next, or for the attempt's success; of an attempt that fails it is not kept. Only
  // of what is more than a report can have (TaskLimits) that is not so.
  virtual void Checkpoint(std::string_view piece) = 0;

  enum class Stop {
    kNo,
    kCancelled,  // end, with TaskOutcome::Failed(kErrorCancelled, …)
    kLost,       // the lease is over; whatever the outcome is, nobody will hear of it
    kReturn,     // the node is being stopped: end soon, with TaskOutcome::Returned if it is not done
    kTimeout,    // the attempt's time is over
  };
  virtual Stop stop() const = 0;
  // Calls it once when it is to stop, from another thread, or at once if that has come; gone when `on_stop`
  // is set again (null too), which waits for a call that is running.
  virtual void SetOnStop(std::function<void()> on_stop) = 0;
};

struct TaskOutcome {
  enum class Kind { kSucceeded, kFailed, kReturned } kind = Kind::kSucceeded;
  std::string result;          // kSucceeded
  std::string error, message;  // kFailed: task.h's words, or the executor's own

  static TaskOutcome Succeeded(std::string result) { return {Kind::kSucceeded, std::move(result), "", ""}; }
  static TaskOutcome Failed(std::string error, std::string message) {
    return {Kind::kFailed, "", std::move(error), std::move(message)};
  }
  static TaskOutcome Returned() { return {Kind::kReturned, "", "", ""}; }
};

// What an attempt that was told to stop comes to, if it is not done.
inline TaskOutcome StoppedOutcome(TaskAttempt::Stop stop) {
  switch (stop) {
    case TaskAttempt::Stop::kCancelled:
      return TaskOutcome::Failed(kErrorCancelled, "");
    case TaskAttempt::Stop::kTimeout:
      return TaskOutcome::Failed(kErrorTimeout, "the attempt took longer than it may");
    default:
      return TaskOutcome::Returned();
  }
}

class TaskExecutor {
 public:
  virtual ~TaskExecutor() = default;

  struct Offer {
    TaskOffer offer;
    std::string description;  // for people
  };
  virtual std::vector<Offer> offers() const = 0;
  virtual int slots() const = 0;  // tasks at once
  // Whether it can be given any at present. Once it can again, whoever lends them says that something waits.
  virtual bool ready() const { return true; }
  // Does it, on a thread of the attempt's own; as many at once as there are slots. Throws nothing. The spec's
  // input is a serialized omni.tasks.v1.Work.
  virtual TaskOutcome Run(TaskAttempt& attempt) = 0;
};

}  // namespace omni
