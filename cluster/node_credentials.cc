#include "cluster/node_credentials.h"

#include <grpcpp/security/credentials.h>

#include "cluster/certificates.h"
#include "cluster/channel_credentials.h"

namespace omni {

absl::StatusOr<std::unique_ptr<NodeCredentials>> NodeCredentials::Make(const std::string& folder,
                                                                       const std::string& listen,
                                                                       bool allow_plain) {
  auto made = std::make_unique<NodeCredentials>();
  if (folder.empty()) {
    auto server = MakeServerCredentials(nullptr, listen, allow_plain);
    if (!server.ok()) return server.status();
    made->server_ = *std::move(server);
    made->channel_ = grpc::InsecureChannelCredentials();
    return made;
  }
  const absl::StatusOr<NodeCertificate> certificate = LoadCredentials(folder);
  if (!certificate.ok()) return certificate.status();
  auto server = MakeServerCredentials(&*certificate, listen, allow_plain);
  if (!server.ok()) return server.status();
  auto channel = MakeChannelCredentials(&*certificate, listen, allow_plain);
  if (!channel.ok()) return channel.status();
  made->server_ = *std::move(server);
  made->channel_ = *std::move(channel);
  return made;
}

}  // namespace omni
