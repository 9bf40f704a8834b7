// An attempt between the thread that works on it and the one that keeps its lease.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "cluster/tasks/task_executor.h"
#include "cluster/tasks/told_queue.h"

namespace omni {

// Thread-safe.
class RunningTask final : public TaskAttempt {
 public:
  struct Options {
    TaskLimits limits;
    size_t batch_bytes = 0, unsaid_bytes = 0;  // as of TaskRunnerOptions
    // There is something to report where there was nothing before, or enough of it. Does not wait.
    std::function<void()> on_told;
  };
  RunningTask(TaskAssignment task, Options options);

  const TaskAssignment& task() const override { return task_; }
  void Output(std::string_view stream, std::string_view bytes) override;
  void Progress(std::string_view text) override;
  void Artifact(std::string_view name, std::string_view where) override;
  void Checkpoint(std::string_view piece) override;
  Stop stop() const override;
  void SetOnStop(std::function<void()> on_stop) override;

  // --- Of the one who keeps the lease

  void SetStop(Stop stop);  // a weaker reason than the one there is changes nothing
  // Nothing is kept of what is told from now on.
  void Mute();
  std::optional<TaskReport> NextReport(bool all);
  void DropUnpointed();
  void OnSaid();  // what NextReport gave last lasts, or is given up
  struct Waiting {
    bool any = false, enough = false;  // enough: it is to be reported at once
  };
  Waiting waiting() const;
  void SetOutcome(TaskOutcome outcome);
  std::optional<TaskOutcome> outcome() const;

 private:
  template <typename Add>
  void Tell(Add add);

  const TaskAssignment task_;
  const Options options_;
  mutable std::mutex mutex_;
  std::condition_variable room_;
  ToldQueue told_;
  size_t under_way_ = 0;  // bytes of the report that is
  bool muted_ = false;
  Stop stop_ = Stop::kNo;
  std::optional<TaskOutcome> outcome_;

  std::mutex on_stop_mutex_;  // also held while it is called
  std::function<void()> on_stop_;
  bool on_stop_called_ = false;
};

}  // namespace omni
