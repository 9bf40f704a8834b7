// Who may call which method of a gRPC server that wants keys. It is asked before any service is, and a method
// that is not in its table is answered to nobody but a node.
#pragma once

#include <memory>
#include <string_view>

#include <absl/status/statusor.h>

#include "cluster/access.h"

namespace grpc {
class AuthMetadataProcessor;
class ServerContextBase;
}  // namespace grpc

namespace omni {

// Metadata of a call that a node makes for somebody else: the caller's name, which may be empty. It is not
// sent on to yet another node.
inline constexpr char kForwardedMetadata[] = "omni-forwarded-bin";

// The same of a call about tasks, which is for somebody who may see everybody's.
inline constexpr char kForwardedAllMetadata[] = "omni-forwarded-all";

// A client that shows a node's certificate may call everything.
enum class RpcNeeds {
  kNode,     // such a certificate
  kNothing,  // nothing: whether the server lives
  kKey,      // any key
  kInfer,    // a key with the scope
  kTasks,
  kAdmin
};
// Of a method's path, "/omni.inference.v1.Inference/GenerateStream"; kNode for one that nobody knows.
RpcNeeds NeedsOf(std::string_view path);

// Whether a client that shows no node's certificate may make a call, by its path and its Authorization header
// (empty: it has none, or several): Unauthenticated without a key or with one that `access` does not know,
// PermissionDenied with one that lacks the scope.
absl::Status CheckCall(Access& access, std::string_view path, std::string_view authorization);
// Asked by the server of every call, the same. For ServerCredentials::SetAuthMetadataProcessor.
std::shared_ptr<grpc::AuthMetadataProcessor> MakeAccessProcessor(std::shared_ptr<Access> access);

// Who makes a call that got so far: the key's name and scopes, or "node/NAME" and all scopes; where a node
// makes it for somebody, that one's name. `access` null: no keys are wanted, and all others are nobody in
// particular, who may do everything.
absl::StatusOr<Caller> CallerOf(const grpc::ServerContextBase& context, Access* access);

}  // namespace omni
