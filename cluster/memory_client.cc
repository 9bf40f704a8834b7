#include "cluster/memory_client.h"

#include <chrono>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "cluster/asked_nodes.h"
#include "omni/memory/v1/memory.grpc.pb.h"

namespace omni {
namespace {

namespace pb = ::omni::memory::v1;
using Stub = pb::Memory::Stub;

constexpr std::chrono::seconds kOneCall{60};  // a large scope may have to be read first

void ToProto(const std::string& scope, const std::vector<Association>& associations,
             pb::AddRequest& request) {
  request.set_scope(scope);
  for (const Association& a : associations) {
    pb::Association& one = *request.add_associations();
    one.set_key(a.key);
    one.set_value(a.value);
  }
}

}  // namespace

struct RemoteMemory::Impl {
  template <typename F>
  absl::Status Call(F&& ask, bool* perhaps_done = nullptr) {
    return nodes->Call(
        kOneCall,
        [&](const std::string& address, grpc::ClientContext& context) {
          return ask(*pb::Memory::NewStub(nodes->ChannelTo(address)), context);
        },
        perhaps_done);
  }

  std::unique_ptr<AskedNodes> nodes;
};

RemoteMemory::RemoteMemory(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RemoteMemory::~RemoteMemory() = default;

absl::StatusOr<std::unique_ptr<RemoteMemory>> RemoteMemory::Make(ClusterClientOptions options) {
  auto impl = std::make_unique<Impl>();
  absl::StatusOr<std::unique_ptr<AskedNodes>> nodes = AskedNodes::Make(std::move(options));
  if (!nodes.ok()) return nodes.status();
  impl->nodes = *std::move(nodes);
  return std::unique_ptr<RemoteMemory>(new RemoteMemory(std::move(impl)));
}

absl::Status RemoteMemory::Add(const std::string& scope, const std::vector<Association>& associations) {
  pb::AddRequest request;
  ToProto(scope, associations, request);
  return impl_->Call([&](Stub& stub, grpc::ClientContext& context) {
    pb::AddResponse response;
    return stub.Add(&context, request, &response);
  });
}

absl::StatusOr<std::optional<Remembered>> RemoteMemory::Ask(const std::string& scope,
                                                            const std::string& key) {
  pb::AskRequest request;
  request.set_scope(scope);
  request.set_key(key);
  pb::AskResponse response;
  const absl::Status status = impl_->Call(
      [&](Stub& stub, grpc::ClientContext& context) { return stub.Ask(&context, request, &response); });
  if (!status.ok()) return status;
  if (!response.found()) return std::optional<Remembered>();
  Remembered got{response.value(), {}};
  got.how.distance = response.distance();
  got.how.margin = response.margin();
  got.how.votes = response.votes();
  got.how.bank_items = response.bank_items();
  return std::optional<Remembered>(std::move(got));
}

absl::StatusOr<Forgotten> RemoteMemory::Forget(const std::string& scope,
                                               const std::optional<std::string>& key) {
  pb::ForgetRequest request;
  request.set_scope(scope);
  if (key.has_value()) request.set_key(*key);
  request.set_all(!key.has_value());
  pb::ForgetResponse response;
  Forgotten forgotten;
  const absl::Status status = impl_->Call(
      [&](Stub& stub, grpc::ClientContext& context) { return stub.Forget(&context, request, &response); },
      &forgotten.perhaps_more);
  if (!status.ok()) return status;
  forgotten.records = static_cast<int64_t>(response.forgotten());
  return forgotten;
}

absl::StatusOr<std::vector<ScopeStats>> RemoteMemory::Stats() {
  pb::StatsResponse response;
  const absl::Status status = impl_->Call([&](Stub& stub, grpc::ClientContext& context) {
    return stub.Stats(&context, pb::StatsRequest(), &response);
  });
  if (!status.ok()) return status;
  std::vector<ScopeStats> stats;
  for (const pb::Scope& s : response.scopes()) {
    stats.push_back({s.scope(), static_cast<int64_t>(s.keys()), static_cast<int64_t>(s.values()),
                     static_cast<int64_t>(s.used_banks()), static_cast<int64_t>(s.fullest_bank()),
                     static_cast<int64_t>(s.bytes()), s.version()});
  }
  return stats;
}

}  // namespace omni
