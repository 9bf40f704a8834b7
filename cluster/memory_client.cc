#include "cluster/memory_client.h"

#include <chrono>
#include <mutex>
#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>

#include "cluster/channel_credentials.h"
#include "cluster/grpc_status.h"
#include "cluster/loopback.h"
#include "cluster/node_credentials.h"
#include "omni/memory/v1/memory.grpc.pb.h"

namespace omni {
namespace {

namespace pb = ::omni::memory::v1;
using Clock = std::chrono::steady_clock;
using Stub = pb::Memory::Stub;

constexpr std::chrono::seconds kOneCall{60};  // a large scope may have to be read first
constexpr std::chrono::milliseconds kPause{50};

bool MayPass(const absl::Status& status) { return absl::IsUnavailable(status); }

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
  std::string Next(const std::string& hint) {
    const std::lock_guard lock(mutex);
    if (!hint.empty()) return current = hint;
    if (!current.empty()) return current;
    return current = options.addresses[turn++ % options.addresses.size()];
  }
  void Failed() {
    const std::lock_guard lock(mutex);
    current.clear();
  }
  std::unique_ptr<Stub> StubOf(const std::string& address) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(kClientPing.count()));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    return pb::Memory::NewStub(grpc::CreateCustomChannel(address, credentials->channel(), arguments));
  }

  // Asks one node after another until one answers, or the patience is over.
  template <typename F>
  absl::Status Call(F&& ask) {
    const auto until = Clock::now() + options.patience;
    std::string hint;
    while (true) {
      const std::string address = Next(std::exchange(hint, ""));
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + kOneCall);
      // A key is not sent in the clear, whatever plain links are allowed for else.
      if (!options.key.empty() && (!options.certificates.empty() || IsLoopback(address)))
        context.AddMetadata("authorization", absl::StrCat("Bearer ", options.key));
      const absl::Status status = FromGrpc(ask(*StubOf(address), context));
      if (status.ok() || !MayPass(status)) return status;
      Failed();
      const auto& trailing = context.GetServerTrailingMetadata();
      if (const auto found = trailing.find(kCoordinatorMetadata); found != trailing.end())
        hint.assign(found->second.data(), found->second.size());
      if (hint == address) hint.clear();
      if (Clock::now() >= until) {
        return credentials->Explain(
            absl::Status(status.code(), absl::StrCat(address, ": ", status.message())), address);
      }
      std::this_thread::sleep_for(hint.empty() ? kPause : std::chrono::milliseconds(1));
    }
  }

  ClusterClientOptions options;
  std::unique_ptr<NodeCredentials> credentials;
  std::mutex mutex;
  std::string current;
  size_t turn = 0;
};

RemoteMemory::RemoteMemory(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RemoteMemory::~RemoteMemory() = default;

absl::StatusOr<std::unique_ptr<RemoteMemory>> RemoteMemory::Make(ClusterClientOptions options) {
  if (options.addresses.empty()) return absl::InvalidArgumentError("no address of a node was given");
  auto impl = std::make_unique<Impl>();
  absl::StatusOr<std::unique_ptr<NodeCredentials>> made =
      NodeCredentials::Make(options.certificates, options.addresses, options.allow_plain);
  if (!made.ok()) return made.status();
  impl->credentials = *std::move(made);
  impl->options = std::move(options);
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

absl::StatusOr<int64_t> RemoteMemory::Forget(const std::string& scope,
                                             const std::optional<std::string>& key) {
  pb::ForgetRequest request;
  request.set_scope(scope);
  if (key.has_value()) request.set_key(*key);
  request.set_all(!key.has_value());
  pb::ForgetResponse response;
  const absl::Status status = impl_->Call(
      [&](Stub& stub, grpc::ClientContext& context) { return stub.Forget(&context, request, &response); });
  if (!status.ok()) return status;
  return static_cast<int64_t>(response.forgotten());
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
