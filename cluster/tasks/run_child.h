// A program that does a task's work: what it says is passed on, and it ends within its limits.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cluster/tasks/child_process.h"
#include "cluster/tasks/task_executor.h"

namespace omni {

// Errors of tasks that a program did not do.
inline constexpr char kErrorNotStarted[] = "not-started", kErrorExit[] = "exit", kErrorSignal[] = "signal",
                      kErrorTimeLimit[] = "time-limit", kErrorCpuLimit[] = "cpu-limit",
                      kErrorMemoryLimit[] = "memory-limit", kErrorProcessLimit[] = "process-limit",
                      kErrorDiskLimit[] = "disk-limit", kErrorOutputLimit[] = "output-limit",
                      kErrorArtifacts[] = "artifacts";

// What is done about what a program says. All on the thread of RunChild.
class ChildTalk {
 public:
  virtual ~ChildTalk() = default;
  // An outcome is the run's: the program is ended, and what else it says is dropped.
  virtual std::optional<TaskOutcome> OnOut(std::string_view bytes) = 0;
  virtual std::optional<TaskOutcome> OnErr(std::string_view bytes) = 0;
  // The attempt is to stop. True: the program was told so in its own words, and has its grace for that before
  // it is asked by a signal.
  virtual bool OnStop() { return false; }
  // What the program is still to be told, on its standard input; taken from the front.
  std::string to_say;
  bool said_all = false;  // its input ends after that
  // What the run has come to, though the program goes on: its input ends, and it is asked to end.
  std::optional<TaskOutcome> finished;
};

struct ChildRun {
  ChildProcess::End end;
  // What it has come to other than by itself: the attempt was stopped, a limit met, or the talk decided.
  std::optional<TaskOutcome> outcome;
  std::chrono::milliseconds took{0};
};

// Returns once nothing of the program is left. Errors: it could not be started.
absl::StatusOr<ChildRun> RunChild(TaskAttempt& attempt, const ChildPlace& place, const ChildSpec& spec,
                                  ChildTalk& talk);

// What a program's end is to a task; none: it ended well, with exit code 0.
std::optional<TaskOutcome> FailedEnd(const ChildRun& run);

// The last of what a program wrote on stderr, as a message may show it.
class LastWords {
 public:
  void Add(std::string_view bytes);
  std::string Shown() const;  // ": …", on a line of printable ASCII; or nothing

 private:
  std::string last_;
};

}  // namespace omni
