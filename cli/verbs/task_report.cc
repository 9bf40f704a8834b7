#include "cli/verbs/task_report.h"

#include <cstdio>
#include <utility>
#include <vector>

#include <absl/strings/ascii.h>
#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "cli/output.h"
#include "cli/terminal.h"

namespace omni::cli {
namespace {

using Json = nlohmann::json;

// A field as text on one line, whatever a server sent; empty: it has none.
std::string Field(const Json& object, const char* name) {
  const auto found = object.is_object() ? object.find(name) : object.end();
  if (found == object.end() || found->is_null() || found->is_structured()) return "";
  return OneLine(found->is_string() ? found->get<std::string>() : found->dump());
}
std::string Lower(const std::string& text) { return absl::AsciiStrToLower(text); }
std::string What(const Json& task) {
  const std::string target = Field(task, "target");
  return absl::StrCat(Field(task, "executor"), target.empty() ? "" : " ", target);
}
// 2026-01-31T12:00:00.250Z without what nobody reads.
std::string Time(const Json& object, const char* name) {
  std::string time = Field(object, name);
  if (const size_t dot = time.find('.'); dot != std::string::npos) time.resize(dot);
  if (time.ends_with('Z')) time.pop_back();
  if (const size_t t = time.find('T'); t != std::string::npos) time[t] = ' ';
  return time;
}
void Line(const char* name, const std::string& value) {
  if (!value.empty() && value != "0") PrintF("%-10s %s\n", name, value);
}
const Json& List(const Json& response, const char* name) {
  static const Json none = Json::array();
  const auto found = response.is_object() ? response.find(name) : response.end();
  return found == response.end() || !found->is_array() ? none : *found;
}

}  // namespace

void PrintTask(const Json& task) {
  Line("id", Field(task, "id"));
  Line("status", Lower(Field(task, "status")));
  Line("work", What(task));
  Line("caller", Field(task, "caller"));
  Line("context", Field(task, "context"));
  Line("parent", Field(task, "parent"));
  Line("created", Time(task, "created"));
  Line("updated", Time(task, "updated"));
  Line("ready", Time(task, "ready"));
  Line("attempt", Field(task, "attempt"));
  Line("node", Field(task, "node"));
  Line("events", Field(task, "last_event"));
  if (Field(task, "children") != "0") {
    Line("children", absl::StrCat(Field(task, "children"), ", ", Field(task, "children_over"), " over, ",
                                  Field(task, "children_succeeded"), " succeeded"));
  }
  Line("error", Field(task, "error"));
  Line("message", Field(task, "message"));
  std::string result;
  if (absl::Base64Unescape(Field(task, "result"), &result) && !result.empty())
    PrintF("\n%s%s", result, result.ends_with('\n') ? "" : "\n");
}

void PrintTasks(const Json& response) {
  PrintF("%-32s  %-9s  %-19s  %3s  %-24s  %s\n", "id", "status", "since (UTC)", "try", "work", "error");
  for (const Json& task : List(response, "tasks")) {
    PrintF("%-32s  %-9s  %-19s  %3s  %-24s  %s\n", Field(task, "id"), Lower(Field(task, "status")),
           Time(task, "updated"), Field(task, "attempt"), FitColumns(What(task), 24), Field(task, "error"));
  }
}

void PrintSchedules(const Json& response) {
  PrintF("%-20s  %-16s  %-16s  %-19s  %s\n", "name", "cron", "zone", "next (UTC)", "last task");
  for (const Json& schedule : List(response, "schedules")) {
    const bool paused = Field(schedule, "paused") == "true";
    PrintF("%-20s  %-16s  %-16s  %-19s  %s\n", Field(schedule, "name"), Field(schedule, "cron"),
           Field(schedule, "time_zone"), paused ? "paused" : Time(schedule, "next"),
           Field(schedule, "last_task"));
  }
}

void TaskScreen::Say(const std::string& note) {
  if (one_screen_ && std::exchange(within_line_, false)) std::fputc('\n', stderr);
  Note(note);
}

void TaskScreen::Show(const TaskEvent& event) {
  const std::string attempt = absl::StrCat("attempt ", event.attempt);
  switch (event.kind) {
    case TaskEventKind::kOutput:
      if (!event.data.empty()) within_line_ = !event.data.ends_with('\n');
      if (event.name == "stderr") {
        std::fwrite(event.data.data(), 1, event.data.size(), stderr);
      } else {
        Print(event.data);
        FlushOutput();
      }
      return;
    case TaskEventKind::kSubmitted:
      return Say("handed in");
    case TaskEventKind::kStarted:
      return Say(absl::StrCat(attempt, " begun on ", event.node));
    case TaskEventKind::kProgress:
      return Say(event.data);
    case TaskEventKind::kArtifact:
      return Say(absl::StrCat("left ", event.name, " at ", event.data));
    case TaskEventKind::kAttemptFailed:
      return Say(absl::StrCat(attempt, " failed: ", event.name, event.data.empty() ? "" : ", ", event.data,
                              event.ready == TaskTime{} ? "" : "; it is tried again"));
    case TaskEventKind::kReturned:
      return Say(absl::StrCat(attempt, " was given back"));
    case TaskEventKind::kCancelRequested:
      return Say("is to be cancelled");
    case TaskEventKind::kChildOver:
      return Say(absl::StrCat("child ", event.name, " is over"));
    case TaskEventKind::kRetried:
      return Say("handed in again");
    case TaskEventKind::kOver:
      if (event.status == TaskStatus::kSucceeded) return Say("succeeded");
      if (event.status == TaskStatus::kCancelled) return Say("cancelled");
      return Say(absl::StrCat("failed: ", event.name, event.data.empty() ? "" : ", ", event.data));
  }
}

}  // namespace omni::cli
