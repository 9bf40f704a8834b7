// What a call over gRPC is called, and the line of the log that it leaves. Of the few files that see gRPC.
#pragma once

#include <chrono>
#include <string>

#include <absl/status/status.h>
#include <grpcpp/grpcpp.h>

#include "cluster/request_ids.h"

namespace omni {

// The one value that a call's metadata has under a name; empty: none, or several.
std::string MetadataOf(const grpc::ServerContextBase& context, const char* name);

// Reads what the client calls its request, and tells it with the answer. Once a call, before its answer.
RequestIds NameRequest(grpc::CallbackServerContext& context);

struct GrpcRequest {
  RequestRecord record;
  const char* method = "";
  std::chrono::steady_clock::time_point asked = std::chrono::steady_clock::now();
};
// When it is over.
void LogGrpcRequest(const GrpcRequest& request, const absl::Status& status);

}  // namespace omni
