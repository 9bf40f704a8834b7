#include "cluster/grpc_access.h"

#include <map>
#include <string>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/security/auth_context.h>
#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/server_context.h>

#include "cluster/channel_credentials.h"
#include "cluster/grpc_status.h"

namespace omni {
namespace {

struct RpcRule {
  std::string_view prefix;  // of a method's path; the first that fits counts
  RpcNeeds needs;
};
constexpr RpcRule kRules[] = {
    {"/grpc.health.v1.Health/", RpcNeeds::kNothing},
    {"/grpc.reflection.v1.ServerReflection/", RpcNeeds::kKey},
    {"/grpc.reflection.v1alpha.ServerReflection/", RpcNeeds::kKey},
    {"/omni.inference.v1.Inference/", RpcNeeds::kInfer},
    {"/omni.memory.v1.Memory/", RpcNeeds::kInfer},
    {"/omni.tasks.v1.SwarmTasks/", RpcNeeds::kTasks},
    {"/omni.tasks.v1.TaskLending/", RpcNeeds::kNode},
    {"/lf.a2a.v1.A2AService/", RpcNeeds::kTasks},
    {"/omni.cluster.v1.Admin/Join", RpcNeeds::kNode},
    {"/omni.cluster.v1.Admin/", RpcNeeds::kAdmin},
    {"/omni.cluster.v1.Regions/", RpcNeeds::kNode},
    {"/omni.cluster.v1.Tiles/", RpcNeeds::kNode},
};

std::string_view View(grpc::string_ref text) { return {text.data(), text.size()}; }

// The one value; empty: there is none, or there are several, of which nobody could say which counts.
std::string_view Only(const std::multimap<grpc::string_ref, grpc::string_ref>& metadata, const char* name) {
  const auto [begin, end] = metadata.equal_range(name);
  return begin == end || std::next(begin) != end ? std::string_view() : View(begin->second);
}

class AccessProcessor final : public grpc::AuthMetadataProcessor {
 public:
  explicit AccessProcessor(std::shared_ptr<Access> access) : access_(std::move(access)) {}
  // It computes one hash, and now and then looks at a small file.
  bool IsBlocking() const override { return false; }
  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* peer, OutputMetadata*,
                       OutputMetadata*) override {
    if (peer != nullptr && !PeerNode(*peer).empty()) return grpc::Status::OK;
    return ToGrpc(CheckCall(*access_, Only(metadata, ":path"), Only(metadata, "authorization")));
  }

 private:
  const std::shared_ptr<Access> access_;
};

}  // namespace

RpcNeeds NeedsOf(std::string_view path) {
  for (const RpcRule& rule : kRules) {
    const bool whole = !rule.prefix.ends_with('/');
    if (whole ? path == rule.prefix : path.starts_with(rule.prefix)) return rule.needs;
  }
  return RpcNeeds::kNode;
}

absl::Status CheckCall(Access& access, std::string_view path, std::string_view header) {
  const RpcNeeds needs = NeedsOf(path);
  if (needs == RpcNeeds::kNothing) return absl::OkStatus();
  // What node wants is told to whoever has a key, so that one who is mistaken learns why.
  const absl::StatusOr<Caller> caller = access.CheckHeader(header);
  if (!caller.ok()) return caller.status();
  switch (needs) {
    case RpcNeeds::kNothing:
    case RpcNeeds::kKey:
      return absl::OkStatus();
    case RpcNeeds::kInfer:
      return Allow(*caller, Scope::kInfer);
    case RpcNeeds::kTasks:
      return Allow(*caller, Scope::kTasks);
    case RpcNeeds::kAdmin:
      return Allow(*caller, Scope::kAdmin);
    case RpcNeeds::kNode:
      break;
  }
  return absl::PermissionDeniedError(
      "this is between nodes, or no method of this server: no key allows it, but a node's certificate of the "
      "cluster's authority does");
}

std::shared_ptr<grpc::AuthMetadataProcessor> MakeAccessProcessor(std::shared_ptr<Access> access) {
  return std::make_shared<AccessProcessor>(std::move(access));
}

absl::StatusOr<Caller> CallerOf(const grpc::ServerContextBase& context, Access* access) {
  const std::string node = PeerNode(context);
  if (!node.empty()) {
    const std::string_view caller = Only(context.client_metadata(), kForwardedMetadata);
    if (!caller.empty()) return Caller{std::string(caller), Scopes::All()};
  }
  if (access == nullptr) return Caller{"", Scopes::All()};
  if (!node.empty()) return Caller{absl::StrCat("node/", node), Scopes::All()};
  return access->CheckHeader(Only(context.client_metadata(), "authorization"));
}

}  // namespace omni
