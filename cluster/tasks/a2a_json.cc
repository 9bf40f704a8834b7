#include "cluster/tasks/a2a_json.h"

#include <algorithm>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>
#include <google/protobuf/util/json_util.h>

#include "cluster/tasks/a2a_error.h"
#include "engine/base/json.h"

namespace omni {
namespace {

using Json = nlohmann::json;

constexpr char kStatePrefix[] = "TASK_STATE_";

absl::Status NotLegacy(const std::string& what) {
  return A2aStatus(A2aReason::kInvalidParams, absl::StrCat("params.", what));
}

// A part of 0.3, which has its kind beside its content.
absl::StatusOr<Json> LegacyPart(const Json& part) {
  const std::string kind =
      part.is_object() ? part.value("kind", Json()).is_string() ? part["kind"].get<std::string>() : "" : "";
  if ((kind == "text" || kind == "data") && part.contains(kind)) return Json{{kind, part[kind]}};
  if (kind == "file") {
    return A2aStatus(A2aReason::kContentTypeNotSupported,
                     "a part of the message is a file; send texts and JSON objects alone");
  }
  return NotLegacy("message.parts has one that is neither a text nor data nor a file");
}

void SetKind(const char* kind, Json& of) {
  if (of.is_object()) of["kind"] = kind;
}

void ToLegacyParts(Json& of) {
  if (!of.is_object() || !of.contains("parts")) return;
  for (Json& part : of["parts"]) {
    if (part.contains("text")) {
      part = {{"kind", "text"}, {"text", part["text"]}};
    } else if (part.contains("url")) {
      part = {{"kind", "file"}, {"file", {{"uri", part["url"]}, {"name", part.value("filename", "")}}}};
    }
  }
}

// {url, token, id, authentication: {schemes, credentials}}
Json FromLegacyPush(const Json& from) {
  Json to = Json::object();
  if (!from.is_object()) return from;
  for (const char* same : {"id", "url", "token"})
    if (from.contains(same)) to[same] = from[same];
  const Json authentication = from.value("authentication", Json());
  if (!authentication.is_object()) return to;
  const Json schemes = authentication.value("schemes", Json());
  if (schemes.is_array() && !schemes.empty()) to["authentication"]["scheme"] = schemes[0];
  if (authentication.contains("credentials"))
    to["authentication"]["credentials"] = authentication["credentials"];
  return to;
}

void ToLegacyMessage(Json& message) {
  message["role"] = message.value("role", "") == "ROLE_USER" ? "user" : "agent";
  SetKind("message", message);
  ToLegacyParts(message);
}

}  // namespace

absl::StatusOr<Json> ParseA2aJson(const std::string& text) {
  absl::StatusOr<Json> json = ParseJson<Json>(text, kA2aJsonDepth);
  if (!json.ok())
    return A2aStatus(A2aReason::kParseError, absl::StrCat("the body ", json.status().message()));
  return json;
}

absl::Status ReadA2aJson(const Json& json, google::protobuf::Message* message) {
  if (!json.is_object()) return A2aStatus(A2aReason::kInvalidParams, "what is asked for is no JSON object");
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  const auto read = google::protobuf::util::JsonStringToMessage(JsonText(json), message, options);
  if (read.ok()) return absl::OkStatus();
  return A2aStatus(A2aReason::kInvalidParams,
                   absl::StrCat("a field is not as it should be: ", std::string(read.message())));
}

Json A2aJson(const google::protobuf::Message& message) {
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text).ok()) return Json::object();
  return Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

Json A2aJson(const a2a::ListTasksResponse& response) {
  Json json = A2aJson(static_cast<const google::protobuf::Message&>(response));
  json["nextPageToken"] = response.next_page_token();
  json["pageSize"] = response.page_size();
  json["totalSize"] = response.total_size();
  if (!json.contains("tasks")) json["tasks"] = Json::array();
  return json;
}

absl::StatusOr<a2a::SendMessageRequest> ReadLegacyMessage(const Json& params) {
  if (!params.is_object() || !params.contains("message") || !params["message"].is_object())
    return NotLegacy("message is no object");
  Json message = params["message"];
  const Json role = message.value("role", Json());
  if (role != "user") return NotLegacy("message.role is not 'user'");
  message["role"] = "ROLE_USER";
  if (!message.contains("parts") || !message["parts"].is_array())
    return NotLegacy("message.parts is no list");
  for (Json& part : message["parts"]) {
    absl::StatusOr<Json> read = LegacyPart(part);
    if (!read.ok()) return read.status();
    part = *std::move(read);
  }
  Json request = {{"message", std::move(message)}};
  if (params.contains("metadata")) request["metadata"] = params["metadata"];
  if (params.contains("configuration") && params["configuration"].is_object()) {
    const Json& from = params["configuration"];
    Json& to = request["configuration"] = Json::object();
    for (const char* same : {"acceptedOutputModes", "historyLength"})
      if (from.contains(same)) to[same] = from[same];
    if (from.contains("pushNotificationConfig"))
      to["taskPushNotificationConfig"] = FromLegacyPush(from["pushNotificationConfig"]);
    to["returnImmediately"] = from.value("blocking", Json()) == false;
  }
  a2a::SendMessageRequest read;
  if (absl::Status s = ReadA2aJson(request, &read); !s.ok()) return s;
  return read;
}

Json LegacyTaskJson(const a2a::Task& task) {
  Json json = A2aJson(task);
  SetKind("task", json);
  const std::string& state = a2a::TaskState_Name(task.status().state());
  json["status"]["state"] = absl::StrReplaceAll(
      absl::AsciiStrToLower(state.substr(std::min(state.size(), sizeof kStatePrefix - 1))), {{"_", "-"}});
  if (json["status"].contains("message")) ToLegacyMessage(json["status"]["message"]);
  if (json.contains("history"))
    for (Json& message : json["history"]) ToLegacyMessage(message);
  if (json.contains("artifacts"))
    for (Json& artifact : json["artifacts"]) ToLegacyParts(artifact);
  return json;
}

absl::StatusOr<Json> ReadLegacyPush(const Json& params) {
  if (!params.is_object()) return A2aStatus(A2aReason::kInvalidParams, "params are no object");
  Json to = params.contains("pushNotificationConfig") ? FromLegacyPush(params["pushNotificationConfig"])
                                                      : Json::object();
  if (!to.is_object()) return NotLegacy("pushNotificationConfig is no object");
  to["taskId"] = params.contains("taskId") ? params["taskId"] : params.value("id", Json());
  if (params.contains("pushNotificationConfigId")) to["id"] = params["pushNotificationConfigId"];
  return to;
}

Json LegacyPushJson(const a2a::TaskPushNotificationConfig& config) {
  Json to = {{"id", config.id()}, {"url", config.url()}};
  if (!config.token().empty()) to["token"] = config.token();
  if (config.has_authentication()) {
    to["authentication"] = {{"schemes", {config.authentication().scheme()}},
                            {"credentials", config.authentication().credentials()}};
  }
  return {{"taskId", config.task_id()}, {"pushNotificationConfig", std::move(to)}};
}

}  // namespace omni
