#include "cluster/tasks/a2a_error.h"

#include <iterator>

#include <absl/strings/cord.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

namespace omni {
namespace {

constexpr char kPayload[] = "a2a-reason";
constexpr int kInternalError = -32603;

struct Row {
  const char* reason;
  absl::StatusCode code;
  int http, rpc;
};
// In the order of A2aReason.
constexpr Row kRows[] = {
    {"TASK_NOT_FOUND", absl::StatusCode::kNotFound, 404, -32001},
    {"TASK_NOT_CANCELABLE", absl::StatusCode::kFailedPrecondition, 400, -32002},
    {"PUSH_NOTIFICATION_NOT_SUPPORTED", absl::StatusCode::kFailedPrecondition, 400, -32003},
    {"UNSUPPORTED_OPERATION", absl::StatusCode::kFailedPrecondition, 400, -32004},
    {"CONTENT_TYPE_NOT_SUPPORTED", absl::StatusCode::kInvalidArgument, 400, -32005},
    {"EXTENDED_AGENT_CARD_NOT_CONFIGURED", absl::StatusCode::kFailedPrecondition, 400, -32007},
    {"VERSION_NOT_SUPPORTED", absl::StatusCode::kFailedPrecondition, 400, -32009},
    {"INVALID_PARAMS", absl::StatusCode::kInvalidArgument, 400, -32602},
    {"METHOD_NOT_FOUND", absl::StatusCode::kUnimplemented, 404, -32601},
    {"PARSE_ERROR", absl::StatusCode::kInvalidArgument, 400, -32700},
    {"INVALID_REQUEST", absl::StatusCode::kInvalidArgument, 400, -32600},
};
static_assert(std::size(kRows) == static_cast<size_t>(A2aReason::kInvalidRequest) + 1);

// google.rpc.Code's name, and the HTTP status that goes with it.
std::pair<const char*, int> NameOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kNotFound:
      return {"NOT_FOUND", 404};
    case absl::StatusCode::kInvalidArgument:
      return {"INVALID_ARGUMENT", 400};
    case absl::StatusCode::kFailedPrecondition:
      return {"FAILED_PRECONDITION", 400};
    case absl::StatusCode::kUnimplemented:
      return {"UNIMPLEMENTED", 501};
    case absl::StatusCode::kResourceExhausted:
      return {"RESOURCE_EXHAUSTED", 429};
    case absl::StatusCode::kUnavailable:
      return {"UNAVAILABLE", 503};
    default:
      return {"INTERNAL", 500};
  }
}

nlohmann::json Details(const A2aError& error) {
  return nlohmann::json::array({{{"@type", "type.googleapis.com/google.rpc.ErrorInfo"},
                                 {"reason", error.reason},
                                 {"domain", "a2a-protocol.org"}}});
}

}  // namespace

absl::Status A2aStatus(A2aReason reason, const std::string& message) {
  const int row = static_cast<int>(reason);
  absl::Status status(kRows[row].code, message);
  status.SetPayload(kPayload, absl::Cord(absl::StrCat(row)));
  return status;
}

absl::Status NoA2aPush() {
  return A2aStatus(A2aReason::kPushNotificationNotSupported,
                   "this agent sends no push notifications; stream or ask for the task");
}

A2aError A2aErrorOf(const absl::Status& status) {
  int row = -1;
  if (const auto payload = status.GetPayload(kPayload); payload.has_value()) {
    if (!absl::SimpleAtoi(std::string(*payload), &row) || row >= static_cast<int>(std::size(kRows))) row = -1;
  } else if (absl::IsNotFound(status)) {
    row = static_cast<int>(A2aReason::kTaskNotFound);
  } else if (absl::IsInvalidArgument(status)) {
    row = static_cast<int>(A2aReason::kInvalidParams);
  }
  if (row >= 0) return {kRows[row].reason, kRows[row].http, NameOf(kRows[row].code).first, kRows[row].rpc};
  const auto [name, http] = NameOf(status.code());
  return {name, http, name, kInternalError};
}

nlohmann::json A2aErrorJson(const absl::Status& status) {
  const A2aError error = A2aErrorOf(status);
  return {{"code", error.http},
          {"status", error.code},
          {"message", std::string(status.message())},
          {"details", Details(error)}};
}

nlohmann::json A2aRpcErrorJson(const absl::Status& status) {
  const A2aError error = A2aErrorOf(status);
  return {{"code", error.rpc}, {"message", std::string(status.message())}, {"data", Details(error)}};
}

}  // namespace omni
