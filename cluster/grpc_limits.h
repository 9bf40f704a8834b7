// What a node's gRPC server takes of those who call it.
#pragma once

namespace grpc {
class ServerBuilder;
}

namespace omni {

void SetServerLimits(grpc::ServerBuilder& builder);

}  // namespace omni
