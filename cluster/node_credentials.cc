#include "cluster/node_credentials.h"

#include <chrono>
#include <optional>

#include <absl/strings/str_cat.h>
#include <grpcpp/security/credentials.h>

#include "cluster/certificates.h"
#include "cluster/channel_credentials.h"
#include "cluster/cluster_log.h"
#include "cluster/explain_link.h"
#include "cluster/grpc_log.h"

namespace omni {

NodeCredentials::NodeCredentials() = default;
NodeCredentials::~NodeCredentials() = default;

absl::StatusOr<std::unique_ptr<NodeCredentials>> NodeCredentials::Make(
    const std::string& folder, const std::vector<std::string>& addresses, bool allow_plain,
    std::shared_ptr<Access> access, const PemPair* pair) {
  TakeGrpcLog();
  if (folder.empty() && access != nullptr && pair != nullptr) {
    if (addresses.size() > 1) {
      return absl::FailedPreconditionError(
          "other nodes are not called without a certificate of their authority; name this node's folder of "
          "one "
          "with --certificates (omni cluster cert makes it)");
    }
    auto alone = std::make_unique<NodeCredentials>();
    alone->server_ = MakeServerCredentials(*pair, std::move(access));
    alone->channel_ = grpc::InsecureChannelCredentials();
    return alone;
  }
  std::optional<NodeCertificate> certificate;
  if (!folder.empty()) {
    absl::StatusOr<NodeCertificate> loaded = LoadCredentials(folder);
    if (!loaded.ok()) return loaded.status();
    certificate = *std::move(loaded);
    constexpr auto kSoon = std::chrono::hours(24 * 30);
    if (certificate->expires - std::chrono::system_clock::now() < kSoon) LogCertificateEndsSoon(folder);
  }
  const NodeCertificate* shown = certificate.has_value() ? &*certificate : nullptr;
  auto made = std::make_unique<NodeCredentials>();
  for (const std::string& address : addresses) {
    absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> server =
        MakeServerCredentials(shown, address, allow_plain);
    if (!server.ok()) {
      return absl::Status(server.status().code(),
                          absl::StrCat(server.status().message(),
                                       "; make certificates with omni cluster cert and "
                                       "name the node's folder with --certificates, or say --allow-plain"));
    }
    absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> channel =
        MakeChannelCredentials(shown, address, allow_plain);
    if (!channel.ok()) return channel.status();
    made->server_ = *std::move(server);
    made->channel_ = *std::move(channel);
  }
  if (access != nullptr) {
    absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> server =
        MakeServerCredentials(shown, addresses.back(), std::move(access));
    if (!server.ok()) {
      return absl::Status(
          server.status().code(),
          absl::StrCat(server.status().message(),
                       "; give this node one with --certificates (omni cluster cert makes it)"));
    }
    made->server_ = *std::move(server);
  }
  if (certificate.has_value())
    made->certificate_ = std::make_unique<const NodeCertificate>(*std::move(certificate));
  return made;
}

absl::Status NodeCredentials::Explain(absl::Status status, const std::string& address) const {
  if (!absl::IsUnavailable(status) || certificate_ == nullptr) return status;
  const absl::Status why = ExplainLink(*certificate_, address, std::chrono::seconds(1));
  if (!absl::IsFailedPrecondition(why)) return status;
  return absl::UnavailableError(absl::StrCat(status.message(), " (", why.message(), ")"));
}

}  // namespace omni
