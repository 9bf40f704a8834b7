#include "cli/verbs/adapt_there.h"

#include <algorithm>
#include <memory>
#include <utility>

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "cli/verbs/task_call.h"
#include "engine/base/interrupt.h"

namespace omni::cli {
namespace {

using Json = nlohmann::json;

std::string TextOf(const Json& object, const char* field) {
  const auto it = object.find(field);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

}  // namespace

absl::StatusOr<Json> LearnOnServer(const LearnThere& request) {
  absl::StatusOr<std::unique_ptr<RemoteTasks>> remote = RemoteTasks::Make(request.server);
  if (!remote.ok()) return remote.status();
  const std::string_view text =
      request.text.substr(request.text.size() - std::min(request.text.size(), kMostHandedIn));
  const Json adapt = {
      {"name", request.name},
      {"text", absl::Base64Escape(absl::string_view(text.data(), text.size()))},
      {"budget", absl::StrFormat("%d.%03ds", request.budget.count() / 1000, request.budget.count() % 1000)},
      {"more", request.more},
      {"drift", request.most_drift}};
  const absl::StatusOr<Json> handed_in = CallTasks(
      **remote, "SubmitTask", {{"spec", {{"work", {{"adapt", adapt}}}}}, {"idempotency_key", NewTaskKey()}});
  if (!handed_in.ok()) return handed_in.status();
  const std::string id = TextOf(handed_in->value("task", Json::object()), "id");
  request.tell(absl::StrCat("task ", id));

  const InterruptGuard interrupt;
  const StopAtInterrupt stop;
  int64_t last = 0;
  const absl::Status watched = (*remote)->Watch(
      id, 0,
      [&](const TaskEvent& event, const std::string&) {
        last = event.number;
        if (event.kind == TaskEventKind::kProgress) request.tell(event.data);
        return true;
      },
      stop.token());
  if (!watched.ok()) return watched;
  if (InterruptGuard::Requested()) {
    return absl::CancelledError(absl::StrCat("the server goes on learning; omni task watch ", id, " --after ",
                                             last, " shows the rest, omni task cancel ", id, " ends it"));
  }
  const absl::StatusOr<Json> task = CallTasks(**remote, "GetTask", {{"id", id}});
  if (!task.ok()) return task.status();
  const std::string status = TextOf(*task, "status");
  if (status == "CANCELLED") return absl::AbortedError(absl::StrCat("task ", id, " was cancelled"));
  std::string bytes;
  if (status != "SUCCEEDED" || !absl::Base64Unescape(TextOf(*task, "result"), &bytes)) {
    return absl::UnknownError(
        absl::StrCat("task ", id, " failed: ", TextOf(*task, "error"), ": ", TextOf(*task, "message")));
  }
  Json result = Json::parse(bytes, nullptr, false);
  if (!result.is_object()) return absl::InternalError(absl::StrCat("task ", id, ": its result is no object"));
  return result;
}

}  // namespace omni::cli
