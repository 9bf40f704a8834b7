#include "cli/swarm_task.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>

#include "cli/output.h"
#include "cli/terminal.h"
#include "cluster/state_holder.h"
#include "cluster/tasks/agent_work.h"
#include "cluster/tasks/zeroclaw_executor.h"
#include "engine/base/interrupt.h"
#include "engine/base/quoted.h"
#include "store/state/state_dir.h"

namespace omni::cli {
namespace {

constexpr char kFlags[] = "--swarm-task --zeroclaw-bin --zeroclaw-alias --swarm-workspace";

// What the agent says goes to standard output, all else to stderr.
class PrintedAttempt final : public TaskAttempt {
 public:
  explicit PrintedAttempt(TaskAssignment task) : task_(std::move(task)) {}
  const TaskAssignment& task() const override { return task_; }
  void Output(std::string_view stream, std::string_view bytes) override {
    if (stream == "text") {
      Print(bytes);
      FlushOutput();
    } else {
      while (!bytes.empty()) {
        const ssize_t n = ::write(STDERR_FILENO, bytes.data(), bytes.size());
        if (n <= 0) return;
        bytes.remove_prefix(static_cast<size_t>(n));
      }
    }
  }
  void Progress(std::string_view text) override { Note(std::string(text)); }
  void Artifact(std::string_view, std::string_view) override {}
  void Checkpoint(std::string_view) override {}
  Stop stop() const override {
    const std::lock_guard lock(mutex_);
    return stop_;
  }
  void SetOnStop(std::function<void()> on_stop) override {
    const std::lock_guard lock(mutex_);
    on_stop_ = std::move(on_stop);
    if (on_stop_ != nullptr && stop_ != Stop::kNo) on_stop_();
  }
  void Cancel() {
    const std::lock_guard lock(mutex_);
    if (std::exchange(stop_, Stop::kCancelled) == Stop::kNo && on_stop_ != nullptr) on_stop_();
  }

 private:
  const TaskAssignment task_;
  mutable std::mutex mutex_;
  Stop stop_ = Stop::kNo;
  std::function<void()> on_stop_;
};

// Where the shell would find it.
absl::StatusOr<std::string> FindProgram(const std::string& name) {
  std::error_code error;
  if (name.find('/') != std::string::npos) {
    const std::string path = std::filesystem::absolute(name, error).string();
    if (::access(path.c_str(), X_OK) == 0) return path;
    return UsageError(absl::StrCat("--zeroclaw-bin: ", Quoted(name), " is no program that can be run"));
  }
  const char* path = std::getenv("PATH");
  for (const absl::string_view folder : absl::StrSplit(path == nullptr ? "" : path, ':')) {
    const std::string file = absl::StrCat(folder, "/", name);
    if (!folder.empty() && folder[0] == '/' && ::access(file.c_str(), X_OK) == 0) return file;
  }
  return UsageError(absl::StrCat("there is no ", Quoted(name),
                                 " in the folders of PATH; say with --zeroclaw-bin where it is"));
}

}  // namespace

void SwarmTaskFlags::Add(Verb& verb) {
  verb.Text("--swarm-task", task_,
            "Hand this task to an agent of ZeroClaw, instead of continuing a prompt, and print what it says");
  verb.Path("--zeroclaw-bin", program_, "With --swarm-task: ZeroClaw's program (default: zeroclaw of PATH)");
  verb.Text("--zeroclaw-alias", alias_, "With --swarm-task: which of ZeroClaw's agents (default: default)");
  verb.Path("--swarm-workspace", workspace_,
            "With --swarm-task: the folder that it works in (default: an empty one, which goes afterwards)");
  typed_ = [&app = verb.app()](bool own) -> std::string {
    const std::vector<std::string> flags = absl::StrSplit(kFlags, ' ');
    for (const CLI::Option* option : app.get_options()) {
      const std::string name = option->get_name(false, false);
      const bool is_own = std::find(flags.begin(), flags.end(), name) != flags.end();
      const bool log = name == "--log" || name == "--log-level";
      if (is_own == own && !log && Verb::OnCommandLine(option)()) return name;
    }
    return "";
  };
}

absl::StatusOr<bool> SwarmTaskFlags::Given() const {
  if (task_.empty()) {
    if (const std::string alone = typed_(true); !alone.empty())
      return UsageError(absl::StrCat(alone,
                                     " does nothing without a task: say what is to be done with "
                                     "--swarm-task"));
    return false;
  }
  if (const std::string other = typed_(false); !other.empty())
    return UsageError(absl::StrCat(other, " does nothing beside --swarm-task; leave it out"));
  return true;
}

absl::StatusOr<int> SwarmTaskFlags::Run() const {
  absl::StatusOr<std::string> program = FindProgram(program_);
  if (!program.ok()) return program.status();
  AgentConfig agent;
  agent.protocol = AgentConfig::Protocol::kZeroclaw;
  agent.alias = alias_;
  agent.program.argv = {*std::move(program)};
  agent.program.limits.time = std::chrono::milliseconds(0);  // whoever waits for it interrupts it
  agent.program.drop_output = true;
  // It finds its own settings there.
  for (const char* name : {"HOME", "LANG", "PATH", "USER"})
    if (const char* value = std::getenv(name)) agent.program.environment[name] = value;
  if (!workspace_.empty()) {
    std::error_code error;
    agent.workspace = std::filesystem::canonical(workspace_, error).string();
    if (error || !std::filesystem::is_directory(agent.workspace))
      return UsageError(absl::StrCat("--swarm-workspace: ", Quoted(workspace_), " is no folder"));
  }
  absl::StatusOr<std::string> dir = StateDir();
  if (!dir.ok()) return dir.status();
  // Of several at one time each has its own.
  const absl::StatusOr<HeldFolder> held = TakeFreeFolder(absl::StrCat(*dir, "/swarm-task"));
  if (!held.ok()) return held.status();
  std::error_code ignored;
  const std::string own = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path().string();
  const ChildPlace place{own + "/omni-child", held->dir, ""};
  if (const absl::StatusOr<int> left = EndLeftovers(place); !left.ok()) return left.status();

  ZeroclawExecutor executor("here", std::move(agent), place);
  TaskAssignment task;
  task.state.id = "0";
  task.work.input = AgentWork("here", task_);
  PrintedAttempt attempt(std::move(task));
  const InterruptGuard interrupt;
  std::jthread watching([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      if (InterruptGuard::Requested()) attempt.Cancel();
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  });
  const TaskOutcome outcome = executor.Run(attempt);
  if (InterruptGuard::Requested()) return kExitInterrupted;
  if (outcome.kind == TaskOutcome::Kind::kSucceeded) return kExitOk;
  return absl::UnknownError(absl::StrCat("the task failed: ", outcome.error, ": ", outcome.message));
}

}  // namespace omni::cli
