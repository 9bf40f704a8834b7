#include "cluster/asked_nodes.h"

#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/channel_credentials.h"
#include "cluster/grpc_cut_off.h"
#include "cluster/grpc_status.h"
#include "cluster/loopback.h"
#include "engine/base/log.h"

namespace omni {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kQuietSilence{2};  // a coordinator that is started again takes no longer

// What gRPC says before what the system said.
constexpr char kNotConnected[] = "Failed to connect to remote host: ";

}  // namespace

absl::StatusOr<std::unique_ptr<AskedNodes>> AskedNodes::Make(ClusterClientOptions options) {
  if (options.addresses.empty()) return absl::InvalidArgumentError("no address of a node was given");
  for (const std::string& address : options.addresses) {
    if (address.find(':') == std::string::npos)
      return absl::InvalidArgumentError(absl::StrCat("'", address, "' is no HOST:PORT"));
  }
  std::unique_ptr<AskedNodes> nodes(new AskedNodes(std::move(options)));
  absl::StatusOr<std::unique_ptr<NodeCredentials>> made = NodeCredentials::Make(
      nodes->options_.certificates, nodes->options_.addresses, nodes->options_.allow_plain);
  if (!made.ok()) return made.status();
  nodes->credentials_ = *std::move(made);
  return nodes;
}

std::string AskedNodes::Next(const std::string& hint) {
  const std::lock_guard lock(mutex_);
  if (!hint.empty()) return current_ = hint;
  if (!current_.empty()) return current_;
  return current_ = options_.addresses[turn_++ % options_.addresses.size()];
}

void AskedNodes::Failed() {
  const std::lock_guard lock(mutex_);
  current_.clear();
}

std::shared_ptr<grpc::Channel> AskedNodes::ChannelTo(const std::string& address) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<grpc::Channel>& channel = channels_[address];
  if (channel == nullptr) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
    // How long one attempt to connect may take: a node that is stopped still has connections accepted for it.
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(kConnecting.count()));
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, static_cast<int>(kConnecting.count()));
    // A node that has been silently cut off is noticed by its silence.
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(kClientPing.count()));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    channel = grpc::CreateCustomChannel(address, credentials_->channel(), arguments);
  }
  return channel;
}

void AskedNodes::ShowKey(grpc::ClientContext& context, const std::string& address) const {
  if (!options_.key.empty() && (!options_.certificates.empty() || IsLoopback(address)))
    context.AddMetadata("authorization", absl::StrCat("Bearer ", options_.key));
}

absl::Status AskedNodes::Explain(const absl::Status& status, const std::string& address) const {
  // Of gRPC's own words for it only what the system said is for people.
  const std::string said(status.message());
  const size_t at = said.rfind(kNotConnected);
  std::string words = absl::StrCat(address, ": ", said);
  if (absl::IsUnavailable(status) && at != said.npos) {
    words = absl::StrCat("nobody answers at ", address, " (is omni serve or omni node running there?): ",
                         said.substr(at + sizeof kNotConnected - 1));
  } else if (absl::IsUnavailable(status) && options_.certificates.empty() &&
             said.ends_with("Socket closed")) {
    absl::StrAppend(&words, "; if it wants certificates, give a node's folder of them by --certificates");
  }
  return credentials_->Explain(absl::Status(status.code(), words), address);
}

absl::Status AskedNodes::Call(std::chrono::milliseconds each, const Ask& ask, bool* perhaps_done) {
  Silence silence(*this);
  std::string hint;
  while (true) {
    const std::string address = Next(std::exchange(hint, ""));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + each);
    ShowKey(context, address);
    const grpc::Status said = ask(address, context);
    const absl::Status status = FromGrpc(said);
    if (status.ok() || !MayPass(said)) return status;
    Failed();
    hint = HintOf(context, address);
    if (absl::Status s = silence.Failed(address, status, hint); !s.ok()) return s;
    // Who names another has done nothing himself, nor has who was not there.
    if (perhaps_done != nullptr && hint.empty() &&
        status.message().find(kNotConnected) == status.message().npos)
      *perhaps_done = true;
  }
}

bool AskedNodes::MayPass(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNAVAILABLE ||
         status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED || CutOff(status);
}

std::string AskedNodes::HintOf(const grpc::ClientContext& context, const std::string& asked) {
  const auto& trailing = context.GetServerTrailingMetadata();
  const auto found = trailing.find(kCoordinatorMetadata);
  if (found == trailing.end()) return "";
  std::string hint(found->second.data(), found->second.size());
  return hint == asked ? "" : hint;
}

void Silence::Heard() {
  since_ = Clock::now();
  told_ = false;
}

absl::Status Silence::Failed(const std::string& address, const absl::Status& said, const std::string& hint) {
  const ClusterClientOptions& options = nodes_.options();
  if (options.give_up && options.give_up())
    return absl::CancelledError("it was interrupted while nobody answered");
  const auto silent = Clock::now() - since_;
  if (silent >= options.patience) return nodes_.Explain(said, address);
  if (silent >= kQuietSilence && !std::exchange(told_, true)) {
    LogWarning("nobody_answers", "{reason}; asking again for {wait}",
               {{"reason", nodes_.Explain(said, address).message()},
                {"wait", std::chrono::duration_cast<std::chrono::seconds>(options.patience - silent)}});
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(hint.empty() ? 50 : 1));
  return absl::OkStatus();
}

}  // namespace omni
