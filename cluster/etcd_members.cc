#include "cluster/etcd_members.h"

#include <algorithm>
#include <random>

#include <absl/strings/str_cat.h>
#include <grpc/impl/codegen/grpc_types.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include "engine/base/log.h"
#include "engine/base/splitmix.h"
#include "store/file/files.h"

namespace omni {
namespace {

constexpr int64_t kMaxPemBytes = 1 << 20;
constexpr std::chrono::milliseconds kBackoff{25}, kMaxBackoff{1000}, kMaxSuspicion{5000};
// A wait for a connection's next state that is given up only holds back a store that is being closed.
constexpr std::chrono::milliseconds kAwait{200};

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(const std::optional<EtcdTls>& tls) {
  if (!tls.has_value()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions ssl;
  if (tls->certificate.empty() != tls->key.empty())
    return absl::InvalidArgumentError("etcd: give a client certificate and its key, or neither");
  const auto read = [](const std::string& path, std::string& into) {
    absl::StatusOr<std::string> text = ReadText(path, kMaxPemBytes);
    if (!text.ok()) return text.status();
    into = *std::move(text);
    return absl::OkStatus();
  };
  if (absl::Status s = read(tls->authority, ssl.pem_root_certs); !s.ok()) return s;
  if (!tls->certificate.empty()) {
    if (absl::Status s = read(tls->certificate, ssl.pem_cert_chain); !s.ok()) return s;
    if (absl::Status s = read(tls->key, ssl.pem_private_key); !s.ok()) return s;
  }
  return grpc::SslCredentials(ssl);
}

grpc::ChannelArguments Arguments(const EtcdOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(options.max_answer_bytes);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);  // also how long one attempt may take
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // etcd hangs up on who pings it more often than every five seconds.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 6000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 2000);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return arguments;
}

}  // namespace

void RequireLeader(grpc::ClientContext& context) { context.AddMetadata("hasleader", "true"); }

absl::StatusOr<std::vector<std::unique_ptr<EtcdMember>>> EtcdMembers::Connect(const EtcdOptions& options) {
  const auto credentials = Credentials(options.tls);
  if (!credentials.ok()) return credentials.status();
  std::vector<std::unique_ptr<EtcdMember>> members;
  for (const std::string& address : options.endpoints) {
    auto member = std::make_unique<EtcdMember>();
    member->address = address;
    member->channel = grpc::CreateCustomChannel(address, *credentials, Arguments(options));
    member->kv = etcdserverpb::KV::NewStub(member->channel);
    member->watch = etcdserverpb::Watch::NewStub(member->channel);
    member->lease = etcdserverpb::Lease::NewStub(member->channel);
    members.push_back(std::move(member));
  }
  return members;
}

EtcdMembers::EtcdMembers(EtcdLoop& loop, std::vector<std::unique_ptr<EtcdMember>> members,
                         std::function<void()> on_change)
    : loop_(loop),
      members_(std::move(members)),
      on_change_(std::move(on_change)),
      seed_(std::random_device()()) {
  for (const auto& member : members_)
    absl::StrAppend(&names_, names_.empty() ? "etcd at " : ", ", member->address);
}

EtcdMember* EtcdMembers::Pick() {
  EtcdMember* suspect = nullptr;
  for (size_t i = 0; i < members_.size(); ++i) {
    const size_t index = (current_ + i) % members_.size();
    EtcdMember& member = *members_[index];
    if (member.channel->GetState(true) != GRPC_CHANNEL_READY) {
      Await(member);
    } else if (!Suspect(member)) {
      current_ = index;
      return &member;
    } else if (suspect == nullptr || member.suspect_until < suspect->suspect_until) {
      suspect = &member;
    }
  }
  return suspect;
}

void EtcdMembers::Answered(EtcdMember& member) {
  member.failures = 0;
  member.suspect_until = {};
}

void EtcdMembers::Failed(EtcdMember& member) {
  const auto suspicion = kBackoff * (int64_t{4} << std::min(member.failures, 10));
  if (++member.failures == 1) {
    LogInfo("etcd_member_left", "etcd's member {address} gave no good answer and is left for another",
            {{"address", member.address}});
  }
  member.suspect_until =
      std::chrono::steady_clock::now() + std::min<std::chrono::milliseconds>(suspicion, kMaxSuspicion);
}

bool EtcdMembers::Suspect(const EtcdMember& member) const {
  return member.suspect_until > std::chrono::steady_clock::now();
}

void EtcdMembers::Close() {
  for (const auto& member : members_) {
    member->kv = nullptr;
    member->watch = nullptr;
    member->lease = nullptr;
    member->channel = nullptr;
  }
}

std::chrono::milliseconds EtcdMembers::Backoff(int attempt) {
  const auto longest = std::min<std::chrono::milliseconds>(
      kBackoff * (int64_t{1} << std::min(std::max(attempt, 1) - 1, 10)), kMaxBackoff);
  const double scattered = static_cast<double>(longest.count()) * (0.5 + CounterUniform(seed_, drawn_++) / 2);
  return std::chrono::milliseconds(static_cast<int64_t>(scattered));
}

void EtcdMembers::Await(EtcdMember& member) {
  if (member.awaited) return;
  member.awaited = true;
  const grpc_connectivity_state state = member.channel->GetState(true);
  member.channel->NotifyOnStateChange(state, DeadlineAfter(kAwait), &loop_.queue(),
                                      loop_.Tag([this, &member](bool) {
                                        member.awaited = false;
                                        if (!loop_.stopping()) on_change_();
                                      }));
}

}  // namespace omni
