// Takes tasks for the executors of a process, and keeps their leases while they are worked on.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/task/task_engine.h"
#include "cluster/tasks/task_executor.h"

namespace omni {

struct TaskRunnerOptions {
  std::string node;
  TaskLimits limits;                         // the lender's
  TaskDuration batch{20};                    // what is told waits so long for more of it,
  size_t batch_bytes = 64 << 10;             // or until it is so much
  size_t unsaid_bytes = 1 << 20;             // told by an attempt and not lasting; whoever tells more waits
  TaskDuration again{50}, most_again{1000};  // before a call whose fate is not known is made again
  TaskDuration look_every = std::chrono::seconds(30);  // for tasks, though none was said to be queued
  std::function<std::chrono::milliseconds()> now;      // never goes back; null: the machine's
};

// Thread-safe.
//
// Every attempt has a thread of its own and one of its executor's slots. Its lease is kept by a report every
// third of its time, if nothing else was told. An attempt whose lease is over by this process's clock is
// lost, whatever the lender may still say. What an executor throws fails the attempt ("exception").
class TaskRunner {
 public:
  // The lender and the executors outlive the runner; each offer is one executor's. ResourceExhausted: no
  // thread can be started.
  static absl::StatusOr<std::unique_ptr<TaskRunner>> Start(TaskLender& lender,
                                                           std::vector<TaskExecutor*> executors,
                                                           TaskRunnerOptions options);
  ~TaskRunner();  // drains

  // Takes nothing any more and asks all attempts to end or be given back; does not wait.
  void BeginDrain();
  // The same, and waits for the attempts and for what is to be said of them: until their leases are over, if
  // nobody answers.
  void Drain();

  const std::string& worker() const;  // this process's stay: 32 hex digits

  struct Offered {
    TaskOffer offer;
    std::string description;
    int slots = 0, running = 0;  // of the offer's executor
  };
  std::vector<Offered> offered() const;

  void Wake();  // the clock was moved; for tests

 private:
  struct Impl;
  explicit TaskRunner(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace omni
