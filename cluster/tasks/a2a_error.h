// What is wrong, in the Agent2Agent protocol's words. Statuses carry them through all that does not know of
// them.
#pragma once

#include <string>

#include <absl/status/status.h>
#include <nlohmann/json.hpp>

namespace omni {

enum class A2aReason {
  kTaskNotFound,
  kTaskNotCancelable,
  kPushNotificationNotSupported,
  kUnsupportedOperation,
  kContentTypeNotSupported,
  kExtendedAgentCardNotConfigured,
  kVersionNotSupported,
  kInvalidParams,
  kMethodNotFound,  // of JSON-RPC alone
  kParseError,
  kInvalidRequest,
};

absl::Status A2aStatus(A2aReason reason, const std::string& message);
absl::Status NoA2aPush();  // kPushNotificationNotSupported

struct A2aError {
  std::string reason;     // of google.rpc.ErrorInfo
  int http = 500;         // status
  const char* code = "";  // the name of gRPC's code
  int rpc = -32603;       // JSON-RPC's code
};
// Of any error: what no reason was given for has the one of its code.
A2aError A2aErrorOf(const absl::Status& status);

// The "error" of an answer: of HTTP+JSON {code, status, message, details}, of JSON-RPC {code, message, data}.
nlohmann::json A2aErrorJson(const absl::Status& status);
nlohmann::json A2aRpcErrorJson(const absl::Status& status);

}  // namespace omni
