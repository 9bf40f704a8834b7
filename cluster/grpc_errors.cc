#include "cluster/grpc_errors.h"

#include <third_party/google_rpc.pb.h>

#include "cluster/caller_limits.h"
#include "cluster/grpc_status.h"

namespace omni {

grpc::Status ToDetailedGrpc(const absl::Status& status, const ErrorDetails& details) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status whole;
  whole.set_code(static_cast<int>(status.code()));
  whole.set_message(std::string(status.message()));
  google::rpc::ErrorInfo info;
  info.set_domain(details.domain);
  info.set_reason(details.reason.empty() ? absl::StatusCodeToString(status.code()) : details.reason);
  for (const auto& [key, value] : details.metadata) (*info.mutable_metadata())[key] = value;
  whole.add_details()->PackFrom(info);
  std::optional<std::chrono::milliseconds> retry = details.retry;
  if (!retry.has_value() && RetryAfter(status).count() > 0) retry = RetryAfter(status);
  if (!retry.has_value() && (absl::IsUnavailable(status) || absl::IsResourceExhausted(status)))
    retry = std::chrono::seconds(1);
  if (retry.has_value()) {
    google::rpc::RetryInfo again;
    again.mutable_retry_delay()->set_seconds(retry->count() / 1000);
    again.mutable_retry_delay()->set_nanos(static_cast<int32_t>(retry->count() % 1000) * 1'000'000);
    whole.add_details()->PackFrom(again);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
                      whole.SerializeAsString());
}

ErrorDetails DetailsOf(const grpc::Status& status) {
  ErrorDetails details;
  google::rpc::Status whole;
  if (!whole.ParseFromString(status.error_details())) return details;
  for (const google::protobuf::Any& any : whole.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::RetryInfo again;
    if (any.UnpackTo(&info)) {
      details.reason = info.reason();
      details.metadata.insert(info.metadata().begin(), info.metadata().end());
    } else if (any.UnpackTo(&again)) {
      details.retry = std::chrono::milliseconds(again.retry_delay().seconds() * 1000 +
                                                again.retry_delay().nanos() / 1'000'000);
    }
  }
  return details;
}

}  // namespace omni
