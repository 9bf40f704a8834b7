#include "cluster/tasks/a2a_push.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>

#include "actors/task/check_task.h"
#include "cluster/tasks/a2a_door.h"
#include "cluster/tasks/a2a_error.h"
#include "cluster/tasks/a2a_json.h"
#include "cluster/tasks/a2a_messages.h"
#include "engine/base/json.h"

namespace omni {
namespace {

absl::Status Invalid(const std::string& message) { return A2aStatus(A2aReason::kInvalidParams, message); }

// What a line of a head may have, which no line's end is among.
bool IsPrintable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c < 0x7f; });
}

}  // namespace

absl::StatusOr<TaskPush> ReadA2aPush(const PushConfig& config, const a2a::TaskPushNotificationConfig& from) {
  TaskPush push;
  push.task = from.task_id();
  push.name = from.id().empty() ? from.task_id() : from.id();
  push.url = from.url();
  push.token = from.token();
  push.scheme = from.authentication().scheme();
  push.credentials = from.authentication().credentials();
  if (const absl::Status s = CheckPush(push, TaskLimits()); !s.ok())
    return Invalid(absl::StrCat("the notification: ", s.message()));
  if (push.url.empty()) return Invalid("the notification's url is empty");
  if (const absl::StatusOr<PushTarget> target = CheckPushUrl(config, push.url); !target.ok())
    return Invalid(std::string(target.status().message()));
  if (!IsPrintable(push.token) || !IsPrintable(push.credentials))
    return Invalid("the notification's token or credentials have characters that no line of a head may have");
  const bool word = std::all_of(push.scheme.begin(), push.scheme.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
  });
  if (!word || (push.scheme.empty() && !push.credentials.empty()))
    return Invalid("the notification's authentication.scheme is none, as Bearer is one");
  return push;
}

a2a::TaskPushNotificationConfig TellA2aPush(const TaskPush& push) {
  a2a::TaskPushNotificationConfig to;
  to.set_id(push.name);
  to.set_task_id(push.task);
  to.set_url(push.url);
  to.set_token(push.token);
  if (!push.scheme.empty()) {
    to.mutable_authentication()->set_scheme(push.scheme);
    to.mutable_authentication()->set_credentials(push.credentials);
  }
  return to;
}

std::string A2aPushBody(const TaskState& state, const TaskEvent& event) {
  // What a program puts out, and says of itself, is streamed or asked for.
  if (event.kind == TaskEventKind::kOutput || event.kind == TaskEventKind::kProgress ||
      event.kind == TaskEventKind::kArtifact || event.kind == TaskEventKind::kChildOver)
    return "";
  std::vector<a2a::StreamResponse> updates;
  A2aUpdates(state, /*extended=*/true)
      .Apply(
          event, [] { return ""; }, &updates);
  for (const a2a::StreamResponse& update : updates)
    if (update.has_status_update()) return JsonText(A2aJson(update));
  return "";
}

}  // namespace omni
