#include "cluster/tasks/command_executor.h"

#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "engine/base/quoted.h"
#include "omni/tasks/v1/tasks.pb.h"

namespace omni {
namespace {

constexpr std::chrono::hours kUsual{24 * 7}, kLonger{24};

// As long as the task is, and for a day, in which the attempt that left it may fail and the next one may end.
std::chrono::milliseconds KeepFor(const TaskAssignment& task) {
  return (task.retain.count() > 0 ? task.retain : kUsual) + kLonger;
}

constexpr int64_t kMostArgumentBytes = 100 << 10;  // of one; the system takes 128 KiB

bool HasZero(const std::string& text) { return text.find('\0') != std::string::npos; }

absl::Status CheckCommand(const omni::tasks::v1::CommandWork& work, const std::string& name,
                          const ProgramConfig& program) {
  if (work.program() != name)
    return absl::InvalidArgumentError(absl::StrCat("there is no program ", Quoted(work.program()), " here"));
  if (work.arguments_size() > program.arguments)
    return absl::InvalidArgumentError(absl::StrCat("there may be ", program.arguments, " arguments at most"));
  for (const std::string& argument : work.arguments())
    if (HasZero(argument) || argument.size() > kMostArgumentBytes)
      return absl::InvalidArgumentError(
          absl::StrCat("an argument has ", kMostArgumentBytes, " bytes at most, and no zero byte"));
  for (const auto& [key, value] : work.environment()) {
    if (!program.task_environment.contains(key))
      return absl::InvalidArgumentError(absl::StrCat(
          "the variable ", Quoted(key), " may not be set; 'task_environment' names those that may"));
    if (HasZero(value) || value.size() > kMostArgumentBytes)
      return absl::InvalidArgumentError(
          absl::StrCat("a variable has ", kMostArgumentBytes, " bytes at most, and no zero byte"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<WorkFolder>> WorkFolder::Make(const ChildPlace& place) {
  absl::StatusOr<std::string> path = MakeWorkFolder(place);
  if (!path.ok()) return path.status();
  return std::unique_ptr<WorkFolder>(new WorkFolder(*std::move(path)));
}

std::vector<std::string> ChildEnvironment(const ProgramConfig& program, const TaskAssignment& task,
                                          const std::string& folder) {
  std::map<std::string, std::string> all = {
      {"PATH", "/usr/local/bin:/usr/bin:/bin"}, {"HOME", folder}, {"TMPDIR", folder}};
  for (const auto& [name, value] : program.environment) all[name] = value;
  all["OMNI_TASK"] = task.state.id;
  std::vector<std::string> environment;
  for (const auto& [name, value] : all) environment.push_back(absl::StrCat(name, "=", value));
  return environment;
}

std::optional<TaskOutcome> StreamTalk::Pass(std::string_view stream, std::string_view bytes) {
  const auto room = static_cast<size_t>(std::max<int64_t>(0, program_.output_bytes - told_));
  told_ += static_cast<int64_t>(bytes.size());
  if (!dropped_) attempt_.Output(stream, bytes.substr(0, room));
  if (bytes.size() <= room) return std::nullopt;
  if (!program_.drop_output)
    return TaskOutcome::Failed(kErrorOutputLimit,
                               absl::StrCat("it wrote more than ", program_.output_bytes, " bytes"));
  if (!std::exchange(dropped_, true))
    attempt_.Progress(absl::StrCat("what it writes beyond ", program_.output_bytes, " bytes is dropped"));
  return std::nullopt;
}

TaskOutcome ChildOutcome(const absl::StatusOr<ChildRun>& run, const LastWords& last, std::string result) {
  if (!run.ok()) return TaskOutcome::Failed(kErrorNotStarted, std::string(run.status().message()));
  std::optional<TaskOutcome> failed = FailedEnd(*run);
  if (!failed.has_value()) return TaskOutcome::Succeeded(std::move(result));
  if (failed->kind == TaskOutcome::Kind::kFailed && !run->outcome.has_value())
    failed->message += last.Shown();
  return *std::move(failed);
}

std::string CommandResult(const absl::StatusOr<ChildRun>& run) {
  if (!run.ok()) return "";
  return absl::StrFormat(R"({"exit_code":%d,"seconds":%.3f,"cpu_seconds":%.3f,"memory_bytes":%d})",
                         run->end.code, static_cast<double>(run->took.count()) / 1000,
                         static_cast<double>(run->end.cpu_ms) / 1000, run->end.memory_bytes);
}

CommandExecutor::CommandExecutor(std::string name, ProgramConfig program, const ChildPlace& place,
                                 const ArtifactStore& artifacts)
    : name_(std::move(name)), program_(std::move(program)), place_(place), artifacts_(artifacts) {}

std::vector<TaskExecutor::Offer> CommandExecutor::offers() const {
  return {{{"command", name_}, program_.description}};
}

TaskOutcome CommandExecutor::Run(TaskAttempt& attempt) {
  const TaskAssignment& task = attempt.task();
  omni::tasks::v1::Work work;
  if (!work.ParseFromString(task.work.input) || !work.has_command())
    return TaskOutcome::Failed(kErrorInvalid, "the task's work is not a command's");
  if (absl::Status s = CheckCommand(work.command(), name_, program_); !s.ok())
    return TaskOutcome::Failed(kErrorInvalid, std::string(s.message()));

  const auto folder = WorkFolder::Make(place_);
  if (!folder.ok()) return TaskOutcome::Failed(kErrorNotStarted, std::string(folder.status().message()));
  const std::string artifacts = (*folder)->path() + "/artifacts";
  ::mkdir(artifacts.c_str(), 0700);
  ChildSpec spec;
  spec.argv = program_.argv;
  spec.argv.insert(spec.argv.end(), work.command().arguments().begin(), work.command().arguments().end());
  ProgramConfig with = program_;
  for (const auto& [key, value] : work.command().environment()) with.environment[key] = value;
  spec.environment = ChildEnvironment(with, task, (*folder)->path());
  spec.folder = (*folder)->path();
  spec.input = work.command().input();
  spec.limits = program_.limits;

  StreamTalk talk(attempt, program_, "stdout");
  const absl::StatusOr<ChildRun> run = RunChild(attempt, place_, spec, talk);
  if (run.ok() && !run->outcome.has_value() && run->end.error == 0) {
    const absl::Status kept = artifacts_.Collect(
        artifacts, {program_.artifacts, program_.artifact_bytes}, KeepFor(task),
        [&](std::string_view name, std::string_view where) { attempt.Artifact(name, where); });
    if (!kept.ok()) return TaskOutcome::Failed(kErrorArtifacts, std::string(kept.message()));
  }
  return ChildOutcome(run, talk.last(), CommandResult(run));
}

}  // namespace omni
