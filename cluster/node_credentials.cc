#include "cluster/node_credentials.h"

#include <chrono>
#include <mutex>
#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/security/credentials.h>

#include "cluster/certificates.h"
#include "cluster/channel_credentials.h"
#include "cluster/cluster_log.h"
#include "cluster/explain_link.h"
#include "cluster/file_reloader.h"
#include "cluster/grpc_log.h"
#include "cluster/grpc_timers.h"
#include "cluster/http/tls.h"
#include "engine/base/log.h"

namespace omni {
namespace {

// What a node's folder holds, and what it comes to hold.
class NodeFiles {
 public:
  explicit NodeFiles(const std::string& folder)
      : folder_(folder),
        reloader_(
            {folder + "/authority.pem", folder + "/node.pem", folder + "/node.key"},
            [this] { return Take(); }, NotTaken) {}
  absl::Status Open() { return reloader_.Open(); }
  ServerPems Now() {
    reloader_.Look();
    const std::lock_guard lock(mutex_);
    return now_;
  }

 private:
  absl::Status Take() {
    absl::StatusOr<NodeCertificate> loaded = LoadCredentials(folder_);
    if (!loaded.ok()) return loaded.status();
    const std::lock_guard lock(mutex_);
    if (now_.version > 0) {
      LogInfo("certificate_reloaded", "{path} was read again, for connections that begin from now on",
              {{"path", folder_}});
    }
    now_ = {std::move(loaded->authority), std::move(loaded->certificate), std::move(loaded->key),
            now_.version + 1};
    return absl::OkStatus();
  }
  static void NotTaken(const absl::Status& why) {
    LogWarning("certificate_not_reloaded", "the certificate that was there stays in use: {reason}",
               {{"reason", why.message()}});
  }

  const std::string folder_;
  std::mutex mutex_;
  ServerPems now_{.authority = "", .certificate = "", .key = "", .version = 0};
  FileReloader reloader_;
};

}  // namespace

NodeCredentials::NodeCredentials() = default;
NodeCredentials::~NodeCredentials() = default;

absl::StatusOr<std::unique_ptr<NodeCredentials>> NodeCredentials::Make(
    const std::string& folder, const std::vector<std::string>& addresses, bool allow_plain,
    std::shared_ptr<Access> access, std::shared_ptr<TlsContext> tls) {
  TakeGrpcLog();
  KeepGrpcTimersOnOneThread();
  if (folder.empty() && access != nullptr && tls != nullptr) {
    if (addresses.size() > 1) {
      return absl::FailedPreconditionError(
          "other nodes are not called without a certificate of their authority; name this node's folder of "
          "one "
          "with --certificates (omni cluster cert makes it)");
    }
    auto alone = std::make_unique<NodeCredentials>();
    const auto shown = [tls = std::move(tls)] {
      TlsContext::Pair now = tls->Now();
      return ServerPems{"", std::move(now.pem.certificate), std::move(now.pem.key), now.version};
    };
    alone->server_ = MakeReloadedCredentials(shown, false, std::move(access));
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
  if (!folder.empty()) {
    auto files = std::make_shared<NodeFiles>(folder);
    if (absl::Status s = files->Open(); !s.ok()) return s;
    const bool must = access == nullptr;
    made->server_ = MakeReloadedCredentials([files] { return files->Now(); }, must, std::move(access));
  } else if (access != nullptr) {
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
