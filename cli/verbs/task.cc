#include <algorithm>
#include <memory>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "cli/cluster_flags.h"
#include "cli/output.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cli/verbs/task_call.h"
#include "cli/verbs/task_report.h"
#include "cli/verbs/task_spec.h"
#include "cli/words.h"
#include "cluster/tasks/task_client.h"
#include "engine/base/interrupt.h"
#include "engine/base/json.h"
#include "engine/base/quoted.h"

namespace omni::cli {
namespace {

using Json = nlohmann::json;

constexpr int kExitCancelled = 3;
constexpr char kActions[] =
    "submit, watch, get, artifact, list, cancel, retry, redrive, purge, schedule and executors";

struct TaskArgs {
  std::string action;
  std::vector<std::string> words;
  ClusterFlags cluster;
  TaskSpecFlags spec;
  std::string key, status, zone;
  int64_t after = 0, limit = 50;
  bool json = false, wait = false, paused = false, dry_run = false;
  GivenFlags of_submit, of_list, of_watch, of_schedule;
};

class Tasks {
 public:
  Tasks(const TaskArgs& args, RemoteTasks& remote) : args_(args), remote_(remote) {}

  absl::StatusOr<int> Submit() {
    const absl::StatusOr<Json> spec = TaskSpecJson(args_.words, args_.spec);
    if (!spec.ok()) return spec.status();
    absl::StatusOr<Json> answer = Call(
        "SubmitTask", {{"spec", *spec}, {"idempotency_key", args_.key.empty() ? NewTaskKey() : args_.key}});
    if (!answer.ok()) return answer.status();
    const std::string id = Text((*answer)["task"], "id");
    if (args_.wait) {
      if (!args_.json) {
        Note(absl::StrCat("task ", id));
        if (!SomebodyDoes((*answer)["task"]))
          Note(
              "nobody does this now, so it waits; omni task executors lists what is done, omni task cancel "
              "ends it");
      }
      return Follow(id, 0);
    }
    if (args_.json) return Show(*answer);
    PrintF("%s\n", id);
    return kExitOk;
  }

  // True also if that cannot be told.
  bool SomebodyDoes(const Json& task) {
    const std::string executor = Text(task, "executor"), target = Text(task, "target");
    const absl::StatusOr<Json> answer = Call("ListExecutors", Json::object());
    if (!answer.ok() || executor.empty()) return true;
    return std::ranges::any_of(answer->value("executors", Json::array()), [&](const Json& one) {
      return Text(one, "executor") == executor && Text(one, "target") == target;
    });
  }

  // Until it is over; what is said then is how.
  absl::StatusOr<int> Follow(const std::string& id, int64_t after) {
    const InterruptGuard interrupt;
    const StopAtInterrupt stop;
    TaskScreen screen(StdoutIsTerminal() && StderrIsTerminal());
    TaskStatus status = TaskStatus::kQueued;
    int64_t last = after;
    const absl::Status watched = remote_.Watch(
        id, after,
        [&](const TaskEvent& event, const std::string& json) {
          if (args_.json) {
            PrintF("%s\n", json);
          } else {
            screen.Show(event);
          }
          if (event.kind != TaskEventKind::kChildOver) status = event.status;
          last = event.number;
          return FlushOutput();
        },
        stop.token());
    if (!watched.ok()) return watched;
    if (InterruptGuard::Requested()) {
      screen.Say(
          absl::StrCat("the task goes on; omni task watch ", id, " --after ", last, " shows the rest"));
      return kExitInterrupted;
    }
    if (!IsOver(status)) {  // there were no events after that number
      const absl::StatusOr<Json> task = Call("GetTask", {{"id", id}});
      if (!task.ok()) return task.status();
      const std::string name = Text(*task, "status");
      status = name == "SUCCEEDED"   ? TaskStatus::kSucceeded
               : name == "CANCELLED" ? TaskStatus::kCancelled
               : name == "FAILED"    ? TaskStatus::kFailed
                                     : status;
    }
    if (status == TaskStatus::kSucceeded) return kExitOk;
    return status == TaskStatus::kCancelled ? kExitCancelled : kExitFailure;
  }

  // A call about one task, which it shows.
  absl::StatusOr<int> One(const char* method) {
    const absl::StatusOr<Json> task = Call(method, {{"id", args_.words[0]}});
    if (!task.ok()) return task.status();
    if (args_.json) return Show(*task);
    if (task->contains("id")) PrintTask(*task);
    return kExitOk;
  }

  // To standard output, as it is.
  absl::StatusOr<int> Artifact() {
    absl::Status fetched = remote_.FetchArtifact(args_.words[0], args_.words[1], [](std::string_view piece) {
      Print(piece);
      return FlushOutput() ? absl::OkStatus() : absl::CancelledError("standard output takes no more");
    });
    if (!fetched.ok()) return fetched;
    return kExitOk;
  }

  absl::StatusOr<int> List() {
    Json request = {{"page_size", args_.limit}};
    if (!args_.status.empty()) request["statuses"] = Json::array({absl::AsciiStrToUpper(args_.status)});
    if (!args_.spec.context.empty()) request["context"] = args_.spec.context;
    Json all = {{"tasks", Json::array()}};
    absl::Status status = Pages("ListTasks", request, "tasks", [&](const Json& task) {
      all["tasks"].push_back(task);
      return static_cast<int64_t>(all["tasks"].size()) < args_.limit;
    });
    if (!status.ok()) return status;
    if (args_.json) return Show(all);
    PrintTasks(all);
    return kExitOk;
  }

  // Hands in again all that failed.
  absl::StatusOr<int> Redrive() {
    std::vector<std::string> ids;
    absl::Status status = Pages("ListDeadLetters", {{"page_size", 500}}, "tasks", [&](const Json& task) {
      // A child is handed in again with its parent.
      if (Text(task, "parent").empty()) ids.push_back(Text(task, "id"));
      return true;
    });
    if (!status.ok()) return status;
    int64_t redriven = 0;
    for (const std::string& id : ids) {
      const absl::StatusOr<Json> task = Call("RetryTask", {{"id", id}});
      redriven += task.ok();
      // Somebody else was faster.
      if (absl::IsNotFound(task.status()) || absl::IsFailedPrecondition(task.status())) continue;
      if (!task.ok()) return task.status();
    }
    if (args_.json) return Show({{"redriven", redriven}});
    PrintF("%d handed in again\n", redriven);
    return kExitOk;
  }

  absl::StatusOr<int> Schedule() {
    const std::string what = args_.words.empty() ? "" : args_.words[0];
    if (what == "list") {
      Json all = {{"schedules", Json::array()}};
      absl::Status status = Pages("ListSchedules", Json::object(), "schedules", [&](const Json& schedule) {
        all["schedules"].push_back(schedule);
        return true;
      });
      if (!status.ok()) return status;
      if (args_.json) return Show(all);
      PrintSchedules(all);
      return kExitOk;
    }
    if (what == "delete" && args_.words.size() == 2) {
      const absl::StatusOr<Json> answer = Call("DeleteSchedule", {{"name", args_.words[1]}});
      if (!answer.ok()) return answer.status();
      return args_.json ? Show({{"deleted", args_.words[1]}}) : kExitOk;
    }
    if (what != "put" || args_.words.size() < 3) {
      return UsageError(
          "omni task schedule wants list, delete NAME, or put NAME CRON and what is to be done, as submit");
    }
    const std::vector<std::string> work(args_.words.begin() + 3, args_.words.end());
    const absl::StatusOr<Json> spec = TaskSpecJson(work, args_.spec);
    if (!spec.ok()) return spec.status();
    const absl::StatusOr<Json> answer = Call("PutSchedule", {{"schedule",
                                                              {{"name", args_.words[1]},
                                                               {"cron", args_.words[2]},
                                                               {"time_zone", args_.zone},
                                                               {"paused", args_.paused},
                                                               {"spec", *spec}}}});
    if (!answer.ok()) return answer.status();
    if (args_.json) return Show(*answer);
    PrintSchedules({{"schedules", Json::array({*answer})}});
    return kExitOk;
  }

  absl::StatusOr<int> Executors() {
    const absl::StatusOr<Json> answer = Call("ListExecutors", Json::object());
    if (!answer.ok()) return answer.status();
    if (args_.json) return Show(*answer);
    PrintF("%-10s  %-20s  %-24s  %7s  %s\n", "executor", "target", "node", "running", "");
    for (const Json& one : answer->value("executors", Json::array())) {
      PrintF("%-10s  %-20s  %-24s  %3s/%-3s  %s\n", Text(one, "executor"), Text(one, "target"),
             Text(one, "node"), Text(one, "running"), Text(one, "slots"), Text(one, "description"));
    }
    return kExitOk;
  }

 private:
  absl::StatusOr<Json> Call(const char* method, const Json& request) {
    return CallTasks(remote_, method, request);
  }
  // All pages of a list, until `each` has enough.
  template <typename F>
  absl::Status Pages(const char* method, Json request, const char* list, F&& each) {
    while (true) {
      const absl::StatusOr<Json> page = Call(method, request);
      if (!page.ok()) return page.status();
      for (const Json& one : page->value(list, Json::array()))
        if (!each(one)) return absl::OkStatus();
      const std::string next = Text(*page, "next_page_token");
      if (next.empty()) return absl::OkStatus();
      request["page_token"] = next;
    }
  }
  static std::string Text(const Json& object, const char* name) {
    const auto found = object.is_object() ? object.find(name) : object.end();
    if (found == object.end()) return "";
    return found->is_string() ? found->get<std::string>() : found->dump();
  }
  static int Show(const Json& json) {
    PrintF("%s\n", JsonText(json));
    return kExitOk;
  }

  const TaskArgs& args_;
  RemoteTasks& remote_;
};

absl::Status CheckFlags(const TaskArgs& args) {
  const auto refuse = [&](const GivenFlags& given, bool fits, const char* of) {
    const std::string first = given.First();
    if (first.empty() || fits) return absl::OkStatus();
    return UsageError(absl::StrCat(first, " is of omni task ", of, "; leave it out"));
  };
  const bool submit = args.action == "submit";
  const bool put = args.action == "schedule" && !args.words.empty() && args.words[0] == "put";
  if (absl::Status s = refuse(args.of_submit, submit || put, "submit"); !s.ok()) return s;
  if (args.dry_run && !submit) return UsageError("--dry-run is of omni task submit; leave it out");
  if (args.dry_run && !args.cluster.certificates.empty())
    return UsageError("--certificates does nothing beside --dry-run, which asks nobody; leave one out");
  if (absl::Status s = refuse(args.of_watch, args.action == "watch", "watch"); !s.ok()) return s;
  if (absl::Status s = refuse(args.of_list, args.action == "list", "list"); !s.ok()) return s;
  if (absl::Status s = refuse(args.of_schedule, put, "schedule put"); !s.ok()) return s;
  const bool one = args.action == "watch" || args.action == "get" || args.action == "cancel" ||
                   args.action == "retry" || args.action == "purge";
  if (one && args.words.size() != 1)
    return UsageError(absl::StrCat("omni task ", args.action, " wants the id of one task"));
  if (args.action == "artifact" && args.words.size() != 2)
    return UsageError("omni task artifact wants the id of a task and the artifact's name");
  if ((args.action == "list" || args.action == "redrive" || args.action == "executors") &&
      !args.words.empty())
    return UsageError(absl::StrCat("omni task ", args.action, " takes no words"));
  return absl::OkStatus();
}

absl::StatusOr<int> RunTask(const TaskArgs& args) {
  if (absl::Status s = CheckFlags(args); !s.ok()) return s;
  if (args.dry_run) {
    const absl::StatusOr<Json> spec = TaskSpecJson(args.words, args.spec);
    if (!spec.ok()) return spec.status();
    PrintF("%s\n", JsonText(*spec));
    return kExitOk;
  }
  absl::StatusOr<ClusterClientOptions> options = args.cluster.ClientOptions();
  if (!options.ok()) return options.status();
  absl::StatusOr<std::unique_ptr<RemoteTasks>> remote = RemoteTasks::Make(*std::move(options));
  if (!remote.ok()) return remote.status();
  Tasks tasks(args, **remote);
  if (args.action == "submit") return tasks.Submit();
  if (args.action == "watch") return tasks.Follow(args.words[0], args.after);
  if (args.action == "get") return tasks.One("GetTask");
  if (args.action == "artifact") return tasks.Artifact();
  if (args.action == "list") return tasks.List();
  if (args.action == "cancel") return tasks.One("CancelTask");
  if (args.action == "retry") return tasks.One("RetryTask");
  if (args.action == "purge") return tasks.One("PurgeTask");
  if (args.action == "redrive") return tasks.Redrive();
  if (args.action == "schedule") return tasks.Schedule();
  if (args.action == "executors") return tasks.Executors();
  return UsageError(absl::StrCat("omni task knows ", kActions, ", not ", Quoted(args.action)));
}

}  // namespace

void AddTask(CLI::App& root, Invocation& invocation) {
  Verb verb(
      root, invocation, "task", "Hand in work that lasts, and watch it",
      "  omni task submit model 'The sea' --max-tokens 40 --wait\n"
      "  omni task submit command sort --key monday -- -r list.txt   # words after -- are the program's\n"
      "  omni task submit agent zero -m 'Tidy the notes'\n"
      "  omni task submit job eval ppl text.txt\n"
      "  omni task submit --file task.json                # an omni.tasks.v1.TaskSpec\n"
      "  omni task watch ID --after 12 --json\n"
      "  omni task artifact ID report.pdf > report.pdf   # what an attempt left on its node's disk\n"
      "  omni task list --status failed; omni task redrive\n"
      "  omni task schedule put nightly '0 3 * * *' command backup --zone Europe/Berlin\n"
      "  omni task schedule list; omni task schedule delete nightly\n\n"
      "It asks the server at 127.0.0.1:8081 (omni serve's gRPC) unless --cluster names others. watch and "
      "submit --wait end with 0 if the task succeeded, 1 if it failed, 3 if it was cancelled, and 130 "
      "after an interrupt, which the task outlives.");
  auto args = std::make_shared<TaskArgs>();
  verb.Require(verb.Argument("ACTION", args->action, kActions));
  AddWords(
      verb, "WORDS", args->words,
      "Of submit model TEXT, command PROGRAM ARGUMENTS, agent NAME or job VERB ARGUMENTS; of watch, get, "
      "cancel, retry and purge the task's id; of artifact that and a name; of schedule put NAME CRON and "
      "what submit takes, list, or "
      "delete NAME");
  TaskSpecFlags& spec = args->spec;
  args->of_submit.Add(
      verb.Path("--file", spec.file, "Of submit: a file with the task as JSON; - reads standard input"));
  args->of_submit.Add(verb.Text("--key", args->key,
                                "Of submit: the same key and work is the same task (default: a new one)"));
  args->of_submit.Add(verb.Bool("--wait", args->wait, "Of submit: show what happens until it is over"));
  args->of_submit.Add(verb.Bool("--dry-run", args->dry_run,
                                "Of submit: only prints the task as JSON, as --file takes it; asks nobody"));
  args->of_submit.Add(verb.Number("--max-tokens", spec.max_tokens, {1, int64_t{1} << 40},
                                  "Of submit model: tokens of the answer at most (default 128)"));
  args->of_submit.Add(verb.Text("-m,--message", spec.message, "Of submit agent: what is to be done"));
  args->of_submit.Add(
      verb.Text("--session", spec.session, "Of submit agent: the agent's session to go on with"));
  args->of_submit.Add(
      verb.Texts("--label", spec.labels, "Of submit: NAME=VALUE; may be given several times"));
  args->of_submit.Add(verb.Number("--priority", spec.priority, {-100, 100},
                                  "Of submit: among the caller's own tasks (default 0)"));
  args->of_submit.Add(
      verb.Number("--attempts", spec.attempts, {1, 1000}, "Of submit: that may fail (default 3)"));
  args->of_submit.Add(verb.Duration("--timeout", spec.timeout, "Of submit: for an attempt (default: none)"));
  args->of_submit.Add(verb.Duration("--delay", spec.delay, "Of submit: begun so much later"));
  verb.Text("--context", spec.context, "Of submit and list: what the task belongs to");
  args->of_watch.Add(verb.Number("--after", args->after, {0, INT64_MAX},
                                 "Of watch: the number of the last event that is known (default 0)"));
  args->of_list.Add(
      verb.Choice("--status", args->status,
                  {"scheduled", "queued", "running", "waiting", "succeeded", "failed", "cancelled"},
                  "Of list: only these"));
  args->of_list.Add(
      verb.Number("-n,--limit", args->limit, {1, 1'000'000}, "Of list: tasks at most (default 50)"));
  args->of_schedule.Add(
      verb.Text("--zone", args->zone, "Of schedule put: of the IANA database (default UTC)"));
  args->of_schedule.Add(verb.Bool("--paused", args->paused, "Of schedule put: hands nothing in"));
  args->cluster.Add(verb);
  verb.Json(args->json);
  verb.Body([args] { return RunTask(*args); });
}

}  // namespace omni::cli
