// Tasks that programs do which a node's configuration allows.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "cluster/tasks/artifact_store.h"
#include "cluster/tasks/executor_config.h"
#include "cluster/tasks/run_child.h"
#include "cluster/tasks/task_executor.h"
#include "cluster/tasks/walk_folder.h"

namespace omni {

// An attempt's own folder, in which its program begins; gone with it.
class WorkFolder {
 public:
  static absl::StatusOr<std::unique_ptr<WorkFolder>> Make(const ChildPlace& place);
  ~WorkFolder() { RemoveFolder(path_); }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  explicit WorkFolder(std::string path) : path_(std::move(path)) {}
  const std::string path_;
};

// What a program gets: what its configuration says, PATH if that says none, HOME and TMPDIR, which are the
// folder, and OMNI_TASK, the task's id, by which it may see that it was begun before.
std::vector<std::string> ChildEnvironment(const ProgramConfig& program, const TaskAssignment& task,
                                          const std::string& folder);

// Passes a program's streams on, as far as they may go.
class StreamTalk : public ChildTalk {
 public:
  StreamTalk(TaskAttempt& attempt, const ProgramConfig& program, std::string out)
      : attempt_(attempt), program_(program), out_(std::move(out)) {}
  std::optional<TaskOutcome> OnOut(std::string_view bytes) override { return Pass(out_, bytes); }
  std::optional<TaskOutcome> OnErr(std::string_view bytes) override {
    last_.Add(bytes);
    return Pass("stderr", bytes);
  }
  const LastWords& last() const { return last_; }

 protected:
  std::optional<TaskOutcome> Pass(std::string_view stream, std::string_view bytes);

 private:
  TaskAttempt& attempt_;
  const ProgramConfig& program_;
  const std::string out_;
  LastWords last_;
  int64_t told_ = 0;
  bool dropped_ = false;
};

// A run of a program as a task's outcome: its failure with its last words, or what `result` says.
TaskOutcome ChildOutcome(const absl::StatusOr<ChildRun>& run, const LastWords& last, std::string result);

// JSON: exit_code, seconds, cpu_seconds, memory_bytes.
std::string CommandResult(const absl::StatusOr<ChildRun>& run);

// One program of the configuration. Output is the streams "stdout" and "stderr"; the result is
// CommandResult's; artifacts are kept of every run that ended by itself.
class CommandExecutor final : public TaskExecutor {
 public:
  // `place` and `artifacts` outlive it.
  CommandExecutor(std::string name, ProgramConfig program, const ChildPlace& place,
                  const ArtifactStore& artifacts);
  std::vector<Offer> offers() const override;
  int slots() const override { return program_.slots; }
  TaskOutcome Run(TaskAttempt& attempt) override;

 private:
  const std::string name_;
  const ProgramConfig program_;
  const ChildPlace& place_;
  const ArtifactStore& artifacts_;
};

}  // namespace omni
