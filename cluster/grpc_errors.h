// What a gRPC client is told of an error beside its code and message: why, in words for programs, and whether
// to ask again (google.rpc.ErrorInfo and RetryInfo).
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>

#include <absl/status/status.h>
#include <grpcpp/support/status.h>

namespace omni {

inline constexpr char kErrorDomain[] = "omni";

struct ErrorDetails {
  std::string reason;  // UPPER_CASE; empty: the code's name
  std::map<std::string, std::string> metadata;
  // None: a second if the code says that asking again may help (UNAVAILABLE, RESOURCE_EXHAUSTED), else never.
  std::optional<std::chrono::milliseconds> retry;
  std::string domain = kErrorDomain;
};

grpc::Status ToDetailedGrpc(const absl::Status& status, const ErrorDetails& details = {});
// Of a status that came over the wire; an empty reason: it has none.
ErrorDetails DetailsOf(const grpc::Status& status);

}  // namespace omni
