// gRPC's statuses and ours: the codes are the same numbers.
#pragma once

#include <string>

#include <absl/status/status.h>
#include <grpcpp/support/status.h>

namespace omni {

// Trailing metadata of an UNAVAILABLE answer of a node that does not coordinate: where the one is that does,
// HOST:PORT, if that is known.
inline constexpr char kCoordinatorMetadata[] = "omni-coordinator";

inline absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

inline grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

}  // namespace omni
