#include "cluster/tasks/job_executor.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>

#include "cluster/tasks/command_executor.h"
#include "engine/base/quoted.h"
#include "omni/tasks/v1/tasks.pb.h"

namespace omni {
namespace {

bool IsBelow(const std::filesystem::path& path, const std::filesystem::path& folder) {
  std::error_code error;
  const std::filesystem::path real = std::filesystem::weakly_canonical(path, error);
  if (error) return false;
  const std::filesystem::path root = std::filesystem::weakly_canonical(folder, error);
  if (error) return false;
  return std::mismatch(root.begin(), root.end(), real.begin(), real.end()).first == root.end();
}

}  // namespace

absl::Status CheckArguments(const std::vector<std::string>& arguments,
                            const std::vector<std::string>& folders, const std::string& folder) {
  for (const std::string& argument : arguments) {
    if (argument.find('\0') != std::string::npos)
      return absl::InvalidArgumentError("an argument has a zero byte");
    // Of "-mPATH" it would not be known where the path begins.
    if (argument.size() > 2 && argument[0] == '-' && argument[1] != '-' &&
        argument.find('/') != std::string::npos)
      return absl::InvalidArgumentError(
          absl::StrCat("the argument ", Quoted(argument), " has to be two: the flag, and its value"));
    for (const absl::string_view part : absl::StrSplit(argument, absl::ByAnyChar("=,:;"))) {
      if (part.find('/') == absl::string_view::npos && part != "." && part != ".." && part != "~") continue;
      const std::filesystem::path path = std::filesystem::path(folder) / std::string(part);
      const bool allowed =
          part[0] != '~' &&
          (IsBelow(path, folder) || std::any_of(folders.begin(), folders.end(),
                                                [&](const std::string& f) { return IsBelow(path, f); }));
      if (!allowed)
        return absl::InvalidArgumentError(
            absl::StrCat("the argument ", Quoted(argument),
                         " names what is in none of the folders that jobs may use ('folders')"));
    }
  }
  return absl::OkStatus();
}

JobExecutor::JobExecutor(JobConfig jobs, std::string programs, const ChildPlace& place)
    : jobs_(std::move(jobs)), programs_(std::move(programs)), place_(place) {}

std::vector<TaskExecutor::Offer> JobExecutor::offers() const {
  std::vector<Offer> offers;
  for (const std::string& verb : jobs_.verbs)
    offers.push_back(
        {{"job", verb}, jobs_.program.description.empty() ? "omni " + verb : jobs_.program.description});
  return offers;
}

TaskOutcome JobExecutor::Run(TaskAttempt& attempt) {
  omni::tasks::v1::Work work;
  if (!work.ParseFromString(attempt.task().work.input) || !work.has_job() ||
      !jobs_.verbs.contains(work.job().verb()))
    return TaskOutcome::Failed(kErrorInvalid, "the task's work is no job that may be done here");
  const auto own = WorkFolder::Make(place_);
  if (!own.ok()) return TaskOutcome::Failed(kErrorNotStarted, std::string(own.status().message()));
  const std::vector<std::string> arguments(work.job().arguments().begin(), work.job().arguments().end());
  if (static_cast<int64_t>(arguments.size()) > jobs_.program.arguments)
    return TaskOutcome::Failed(kErrorInvalid,
                               absl::StrCat("there may be ", jobs_.program.arguments, " arguments at most"));
  if (absl::Status s = CheckArguments(arguments, jobs_.folders, (*own)->path()); !s.ok())
    return TaskOutcome::Failed(kErrorInvalid, std::string(s.message()));
  ChildSpec spec;
  // The trainer is a program of its own.
  spec.argv = work.job().verb() == "train" ? std::vector<std::string>{programs_ + "/omni-train"}
                                           : std::vector<std::string>{programs_ + "/omni", work.job().verb()};
  spec.argv.insert(spec.argv.end(), arguments.begin(), arguments.end());
  spec.environment = ChildEnvironment(jobs_.program, attempt.task(), (*own)->path());
  spec.folder = (*own)->path();
  spec.input = "";
  spec.limits = jobs_.program.limits;
  StreamTalk talk(attempt, jobs_.program, "stdout");
  const absl::StatusOr<ChildRun> run = RunChild(attempt, place_, spec, talk);
  return ChildOutcome(run, talk.last(), CommandResult(run));
}

}  // namespace omni
