#include "cluster/tasks/a2a_messages.h"

#include <algorithm>
#include <chrono>
#include <string_view>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <google/protobuf/util/json_util.h>

#include "cluster/tasks/a2a_error.h"
#include "cluster/tasks/task_messages.h"
#include "cluster/tasks/utf8_pieces.h"
#include "engine/base/quoted.h"

namespace omni {
namespace {

namespace pb = ::omni::tasks::v1;
namespace protobuf = ::google::protobuf;

constexpr char kSkill[] = "skill", kMessageLabel[] = "a2a.message";
constexpr char kModel[] = "model";
constexpr size_t kMostIdBytes = 200;  // so that what is made of it is no longer than the engine's words
constexpr size_t kMostArtifacts = 1000;
constexpr int64_t kFirstSecond = -62'135'596'800, kLastSecond = 253'402'300'799;  // of a Timestamp

absl::Status Invalid(const std::string& message) { return A2aStatus(A2aReason::kInvalidParams, message); }

// What `name` says in a Struct; empty: nothing.
absl::StatusOr<std::string> Word(const protobuf::Struct& from, const std::string& name) {
  const auto it = from.fields().find(name);
  if (it == from.fields().end()) return "";
  if (it->second.kind_case() != protobuf::Value::kStringValue)
    return Invalid(absl::StrCat("metadata.", name, " is no text"));
  return it->second.string_value();
}

bool IsText(std::string_view media_type) {
  const std::string type = absl::AsciiStrToLower(absl::StripAsciiWhitespace(
      absl::string_view(media_type.data(), std::min(media_type.find(';'), media_type.size()))));
  return type.empty() || type == "text/plain" || type == "text/markdown" || type == "text/*" || type == "*/*";
}

// The message's texts, one line after another, and the fields of the work that its data parts have.
absl::Status ReadParts(const a2a::Message& message, std::string* text, protobuf::Struct* fields) {
  bool first = true;
  for (const a2a::Part& part : message.parts()) {
    if (part.content_case() == a2a::Part::kText && IsText(part.media_type())) {
      if (!std::exchange(first, false)) *text += "\n";
      *text += part.text();
    } else if (part.content_case() == a2a::Part::kData && part.data().has_struct_value()) {
      for (const auto& [name, value] : part.data().struct_value().fields())
        (*fields->mutable_fields())[name] = value;
    } else if (part.content_case() == a2a::Part::CONTENT_NOT_SET) {
      return Invalid("a part of the message has neither text nor data");
    } else {
      return A2aStatus(A2aReason::kContentTypeNotSupported,
                       "a part of the message is neither text/plain nor a JSON object; send these alone");
    }
  }
  return absl::OkStatus();
}

// The work's own message of `fields`, in protobuf's JSON.
template <typename Work>
absl::Status ReadFields(const protobuf::Struct& fields, Work* work) {
  std::string json;
  const protobuf::util::Status written = protobuf::util::MessageToJsonString(fields, &json);
  const protobuf::util::Status read =
      written.ok() ? protobuf::util::JsonStringToMessage(json, work) : written;
  if (read.ok()) return absl::OkStatus();
  return Invalid(absl::StrCat("the message's data is not what this skill takes: ", read.ToString()));
}

absl::Status ReadWork(const std::string& skill, const std::string& text, const protobuf::Struct& fields,
                      pb::Work* work) {
  const size_t slash = std::min(skill.find('/'), skill.size());
  const std::string executor = skill.substr(0, slash);
  const std::string target = slash == skill.size() ? "" : skill.substr(slash + 1);
  absl::Status read;
  if (executor == kModel) {
    read = ReadFields(fields, work->mutable_model());
    work->mutable_model()->set_prompt(text);
    if (!target.empty()) work->mutable_model()->set_model(target);
  } else if (executor == "command" && !target.empty()) {
    read = ReadFields(fields, work->mutable_command());
    work->mutable_command()->set_program(target);
    work->mutable_command()->set_input(text);
  } else if (executor == "agent" && !target.empty()) {
    read = ReadFields(fields, work->mutable_agent());
    work->mutable_agent()->set_agent(target);
    work->mutable_agent()->set_message(text);
  } else {
    return Invalid(absl::StrCat("there is no skill ", Quoted(skill),
                                "; those that there are have their ids in the agent card"));
  }
  return read;
}

protobuf::Timestamp ToTime(TaskTime time) {
  protobuf::Timestamp to;
  const int64_t ms = time.time_since_epoch().count();
  to.set_seconds(ms / 1000);
  to.set_nanos(static_cast<int32_t>(ms % 1000) * 1'000'000);
  return to;
}

std::string ToUtf8(std::string_view bytes) {
  std::string pending, text = TakeUtf8(bytes, &pending);
  return text + EndUtf8(&pending);
}

void TellExtension(int64_t number, int32_t attempt, const std::string& node, protobuf::Struct* metadata) {
  auto& fields = *(*metadata->mutable_fields())[kA2aExtension].mutable_struct_value()->mutable_fields();
  fields["sequence"].set_number_value(static_cast<double>(number));
  fields["attempt"].set_number_value(attempt);
  if (!node.empty()) fields["node"].set_string_value(ToUtf8(node));
}

void TellText(const std::string& id, const TaskId& task, const std::string& context, const std::string& text,
              a2a::Message* message) {
  message->set_message_id(id);
  message->set_task_id(task);
  message->set_context_id(context);
  message->set_role(a2a::ROLE_AGENT);
  message->add_parts()->set_text(ToUtf8(text));
}

std::string ContextOf(const TaskId& id, const std::string& context) {
  return context.empty() ? id : ToUtf8(context);
}

std::string FailureText(const std::string& error, const std::string& message) {
  return absl::StrCat(error, message.empty() ? "" : ": ", message);
}

}  // namespace

absl::Status CheckA2aVersion(const std::string& version, bool legacy) {
  const bool fits = version.empty() || (legacy ? version == "0.3" || absl::StartsWith(version, "0.3.")
                                               : version == "1" || version == "1.0");
  if (fits) return absl::OkStatus();
  return A2aStatus(A2aReason::kVersionNotSupported,
                   absl::StrCat("A2A-Version is ", Quoted(version), "; here is ", legacy ? "0.3" : "1.0"));
}

bool WantsA2aExtension(const std::string& extensions) {
  for (const absl::string_view uri : absl::StrSplit(extensions, ','))
    if (absl::StripAsciiWhitespace(uri) == kA2aExtension) return true;
  return false;
}

absl::StatusOr<TaskSubmission> ReadA2aMessage(const a2a::SendMessageRequest& request) {
  const a2a::Message& message = request.message();
  if (message.message_id().empty()) return Invalid("message.messageId is empty; give each message its own");
  if (message.message_id().size() > kMostIdBytes || message.context_id().size() > kMostIdBytes) {
    return Invalid(absl::StrCat("message.messageId and contextId have at most ", kMostIdBytes, " bytes"));
  }
  if (message.role() != a2a::ROLE_USER) return Invalid("message.role is not ROLE_USER");
  if (message.parts().empty()) return Invalid("message.parts are none; a message needs a text");
  const a2a::SendMessageConfiguration& wanted = request.configuration();
  if (wanted.has_history_length() && wanted.history_length() < 0)
    return Invalid("configuration.historyLength is negative");
  const auto& modes = wanted.accepted_output_modes();
  if (!modes.empty() && std::none_of(modes.begin(), modes.end(), IsText)) {
    return A2aStatus(A2aReason::kContentTypeNotSupported,
                     "what this agent puts out is text/plain, which is not among acceptedOutputModes");
  }
  std::string text;
  protobuf::Struct fields;
  if (absl::Status s = ReadParts(message, &text, &fields); !s.ok()) return s;
  absl::StatusOr<std::string> skill = Word(message.metadata(), kSkill);
  if (skill.ok() && skill->empty()) skill = Word(request.metadata(), kSkill);
  if (!skill.ok()) return skill.status();
  pb::TaskSpec spec;
  if (absl::Status s = ReadWork(skill->empty() ? kModel : *skill, text, fields, spec.mutable_work()); !s.ok())
    return s;
  spec.set_context(message.context_id().empty() ? absl::StrCat("context-", message.message_id())
                                                : message.context_id());
  (*spec.mutable_labels())[kMessageLabel] = message.message_id();
  absl::StatusOr<TaskSpec> read = ReadSpec(spec, "message");
  if (!read.ok()) return Invalid(std::string(read.status().message()));
  return TaskSubmission{"", absl::StrCat("a2a:", message.message_id()), *std::move(read)};
}

a2a::TaskState A2aStateOf(TaskStatus status, int32_t attempt, const std::string& error) {
  switch (status) {
    case TaskStatus::kScheduled:
    case TaskStatus::kQueued:
      return attempt == 0 ? a2a::TASK_STATE_SUBMITTED : a2a::TASK_STATE_WORKING;
    case TaskStatus::kRunning:
    case TaskStatus::kWaiting:
      return a2a::TASK_STATE_WORKING;
    case TaskStatus::kSucceeded:
      return a2a::TASK_STATE_COMPLETED;
    case TaskStatus::kFailed:
      return error == kErrorInvalid ? a2a::TASK_STATE_REJECTED : a2a::TASK_STATE_FAILED;
    case TaskStatus::kCancelled:
      return a2a::TASK_STATE_CANCELED;
  }
  return a2a::TASK_STATE_UNSPECIFIED;
}

absl::StatusOr<std::vector<TaskStatus>> StatusesOf(a2a::TaskState state) {
  switch (state) {
    case a2a::TASK_STATE_UNSPECIFIED:
      return std::vector<TaskStatus>{};
    case a2a::TASK_STATE_SUBMITTED:
      return std::vector{TaskStatus::kScheduled, TaskStatus::kQueued};
    case a2a::TASK_STATE_WORKING:
      return std::vector{TaskStatus::kScheduled, TaskStatus::kQueued, TaskStatus::kRunning,
                         TaskStatus::kWaiting};
    case a2a::TASK_STATE_COMPLETED:
      return std::vector{TaskStatus::kSucceeded};
    case a2a::TASK_STATE_FAILED:
    case a2a::TASK_STATE_REJECTED:
      return std::vector{TaskStatus::kFailed};
    case a2a::TASK_STATE_CANCELED:
      return std::vector{TaskStatus::kCancelled};
    default:
      return Invalid("no task of this agent is ever in that status");
  }
}

absl::StatusOr<TaskFilter> ReadA2aFilter(const a2a::ListTasksRequest& request) {
  absl::StatusOr<std::vector<TaskStatus>> statuses = StatusesOf(request.status());
  if (!statuses.ok()) return statuses.status();
  TaskFilter filter;
  filter.statuses = *std::move(statuses);
  filter.context = request.context_id();
  if (!request.has_status_timestamp_after()) return filter;
  const protobuf::Timestamp& since = request.status_timestamp_after();
  if (since.seconds() < kFirstSecond || since.seconds() > kLastSecond || since.nanos() < 0 ||
      since.nanos() >= 1'000'000'000)
    return Invalid("statusTimestampAfter is no time of the years 1 to 9999");
  // What is no whole millisecond is later than the one it is in.
  filter.updated_since = TaskTime(std::chrono::seconds(since.seconds()) +
                                  std::chrono::milliseconds((int64_t{since.nanos()} + 999'999) / 1'000'000));
  return filter;
}

a2a::Task TellA2aTask(const TaskState& state, bool extended) {
  a2a::Task task;
  task.set_id(state.id);
  task.set_context_id(ContextOf(state.id, state.context));
  a2a::TaskStatus& status = *task.mutable_status();
  status.set_state(A2aStateOf(state.status, state.attempt, state.error));
  *status.mutable_timestamp() = ToTime(state.updated);
  if (state.status == TaskStatus::kFailed) {
    TellText(absl::StrCat(state.id, "-", state.last_event), state.id, task.context_id(),
             FailureText(state.error, state.message), status.mutable_message());
  }
  if (extended) TellExtension(state.last_event, state.attempt, state.node, task.mutable_metadata());
  return task;
}

a2a::Message TellA2aMessage(const TaskState& state, const TaskWork& work) {
  a2a::Message message;
  const auto label = work.labels.find(kMessageLabel);
  message.set_message_id(label == work.labels.end() ? absl::StrCat(state.id, "-0") : ToUtf8(label->second));
  message.set_task_id(state.id);
  message.set_context_id(ContextOf(state.id, state.context));
  message.set_role(a2a::ROLE_USER);
  pb::Work given;
  std::string text;
  if (given.ParseFromString(work.input)) {
    if (given.has_model()) text = given.model().prompt();
    if (given.has_command()) text = given.command().input();
    if (given.has_agent()) text = given.agent().message();
  }
  message.add_parts()->set_text(ToUtf8(text));
  return message;
}

A2aUpdates::A2aUpdates(const TaskState& state, bool extended)
    : task_(state.id),
      executor_(state.executor),
      context_(ContextOf(state.id, state.context)),
      extended_(extended) {}

void A2aUpdates::AddStatus(const TaskEvent& event, const std::string& text,
                           std::vector<a2a::StreamResponse>* updates) {
  a2a::TaskStatusUpdateEvent& update = *updates->emplace_back().mutable_status_update();
  update.set_task_id(task_);
  update.set_context_id(context_);
  a2a::TaskStatus& status = *update.mutable_status();
  const std::string error = event.kind == TaskEventKind::kOver ? event.name : "";
  // Of kChildOver the status is the child's.
  const TaskStatus own = event.kind == TaskEventKind::kChildOver ? TaskStatus::kWaiting : event.status;
  status.set_state(A2aStateOf(own, event.attempt, error));
  *status.mutable_timestamp() = ToTime(event.time);
  if (!text.empty())
    TellText(absl::StrCat(task_, "-", event.number), task_, context_, text, status.mutable_message());
  if (extended_) TellExtension(event.number, event.attempt, event.node, update.mutable_metadata());
}

a2a::TaskArtifactUpdateEvent* A2aUpdates::AddArtifact(const TaskEvent& event, const std::string& id,
                                                      std::vector<a2a::StreamResponse>* updates) {
  a2a::TaskArtifactUpdateEvent& update = *updates->emplace_back().mutable_artifact_update();
  update.set_task_id(task_);
  update.set_context_id(context_);
  update.mutable_artifact()->set_artifact_id(id);
  if (extended_) TellExtension(event.number, event.attempt, event.node, update.mutable_metadata());
  return &update;
}

// What ended in the middle of a character ends with a sign in its place.
void A2aUpdates::EndTexts(const TaskEvent& event, std::vector<a2a::StreamResponse>* updates) {
  for (auto& [id, pending] : begun_) {
    const std::string rest = EndUtf8(&pending);
    if (rest.empty()) continue;
    a2a::TaskArtifactUpdateEvent* update = AddArtifact(event, id, updates);
    update->set_append(true);
    update->mutable_artifact()->add_parts()->set_text(rest);
  }
}

void A2aUpdates::Apply(const TaskEvent& event, const std::function<std::string()>& result,
                       std::vector<a2a::StreamResponse>* updates) {
  // A model's next attempt goes on where the last was; others begin anew, with artifacts of their own.
  const std::string suffix =
      executor_ == kModel || event.attempt <= 1 ? "" : absl::StrCat("-", event.attempt);
  switch (event.kind) {
    case TaskEventKind::kSubmitted:
      return;
    case TaskEventKind::kOutput: {
      const std::string id = absl::StrCat(ToUtf8(event.name), suffix);
      if (!begun_.contains(id) && begun_.size() >= kMostArtifacts) return;
      const auto [it, fresh] = begun_.try_emplace(id);
      const std::string text = TakeUtf8(event.data, &it->second);
      if (text.empty() && !fresh) return;
      a2a::TaskArtifactUpdateEvent* update = AddArtifact(event, id, updates);
      update->set_append(!fresh);
      update->mutable_artifact()->set_name(ToUtf8(event.name));
      a2a::Part* part = update->mutable_artifact()->add_parts();
      part->set_text(text);
      part->set_media_type("text/plain");
      return;
    }
    case TaskEventKind::kArtifact: {
      a2a::TaskArtifactUpdateEvent* update =
          AddArtifact(event, absl::StrCat("file/", ToUtf8(event.name), suffix), updates);
      update->set_last_chunk(true);
      update->mutable_artifact()->set_name(ToUtf8(event.name));
      a2a::Part* part = update->mutable_artifact()->add_parts();
      part->set_url(
          absl::StrCat(absl::StrContains(event.data, ":") ? "" : "urn:omni:artifact:", ToUtf8(event.data)));
      part->set_filename(ToUtf8(event.name));
      return;
    }
    case TaskEventKind::kProgress:
      return AddStatus(event, event.data, updates);
    case TaskEventKind::kAttemptFailed:
      EndTexts(event, updates);
      return AddStatus(event, FailureText(event.name, event.data), updates);
    case TaskEventKind::kCancelRequested:
      return AddStatus(event, "cancelling was asked for", updates);
    case TaskEventKind::kOver: {
      EndTexts(event, updates);
      if (event.status == TaskStatus::kSucceeded && begun_.empty()) {
        if (const std::string all = ToUtf8(result()); !all.empty()) {
          begun_["result"];
          a2a::TaskArtifactUpdateEvent* update = AddArtifact(event, "result", updates);
          update->set_last_chunk(true);
          update->mutable_artifact()->set_name("result");
          update->mutable_artifact()->add_parts()->set_text(all);
        }
      }
      const bool failed = event.status == TaskStatus::kFailed;
      return AddStatus(event, failed ? FailureText(event.name, event.data) : "", updates);
    }
    case TaskEventKind::kStarted:
    case TaskEventKind::kReturned:
    case TaskEventKind::kChildOver:
    case TaskEventKind::kRetried:
      return AddStatus(event, "", updates);
  }
}

void MergeA2a(const a2a::StreamResponse& update, size_t most, a2a::Task* task) {
  if (!update.has_artifact_update()) return;
  const a2a::Artifact& more = update.artifact_update().artifact();
  auto& all = *task->mutable_artifacts();
  size_t used = 0;
  for (const a2a::Artifact& artifact : all)
    used += artifact.parts(0).text().size() + artifact.parts(0).url().size();
  auto it = std::find_if(all.begin(), all.end(), [&](const a2a::Artifact& artifact) {
    return artifact.artifact_id() == more.artifact_id();
  });
  if (it == all.end()) {
    if (static_cast<size_t>(all.size()) >= kMostArtifacts) return;
    *all.Add() = more;
    it = std::prev(all.end());
    it->mutable_parts(0)->clear_text();  // which follows; a URL stays
  }
  if (!more.parts(0).has_text()) return;
  std::string& text = *it->mutable_parts(0)->mutable_text();
  const std::string& piece = more.parts(0).text();
  auto& fields = *it->mutable_metadata()->mutable_fields();
  if (fields.contains("truncated")) return;
  if (used + piece.size() > most) {
    fields["truncated"].set_bool_value(true);
    text += WholeUtf8(piece, most - std::min(used, most));
  } else {
    text += piece;
  }
  if (it->metadata().fields().empty()) it->clear_metadata();
}

}  // namespace omni
