// How a caller sees that a server has ended in the middle of its call.
#pragma once

#include <grpcpp/support/status.h>

namespace omni {

// Of a call that its caller has not cancelled: gRPC says so without any details, which our own refusals have.
inline bool CutOff(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::CANCELLED && status.error_details().empty();
}

}  // namespace omni
