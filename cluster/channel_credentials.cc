#include "cluster/channel_credentials.h"

#include <string_view>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/auth_context.h>
#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_context.h>

#include "cluster/grpc_access.h"
#include "cluster/host_port.h"
#include "cluster/loopback.h"
#include "engine/base/log.h"
#include "engine/base/quoted.h"

namespace omni {

absl::Status CheckPlain(const std::string& address, bool allow_plain) {
  if (allow_plain || IsLoopback(address)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(Quoted(address),
                   " is not a loopback address, and without certificates what goes over it could be read and "
                   "changed by anybody in between; give this node a certificate, or allow plain links"));
}

namespace {

absl::Status CheckPlainAndWarn(const std::string& address, bool allow_plain) {
  if (absl::Status s = CheckPlain(address, allow_plain); !s.ok()) return s;
  if (!IsLoopback(address)) {
    LogWarning("links_not_secured",
               "links at {address} are not secured: anybody in between can read and change them",
               {{"address", address}});
  }
  return absl::OkStatus();
}

PemSource Fixed(const NodeCertificate& c) {
  return [pems = ServerPems{c.authority, c.certificate, c.key}] { return pems; };
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const NodeCertificate* credentials, const std::string& address, bool allow_plain) {
  if (credentials == nullptr) {
    if (absl::Status s = CheckPlainAndWarn(address, allow_plain); !s.ok()) return s;
    return grpc::InsecureServerCredentials();
  }
  return MakeReloadedCredentials(Fixed(*credentials), true, nullptr);
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const NodeCertificate* credentials, const std::string& address, std::shared_ptr<Access> access) {
  if (credentials != nullptr) return MakeReloadedCredentials(Fixed(*credentials), false, std::move(access));
  // gRPC asks its processor only where links are secured; of those of this machine it sees to that itself,
  // and knows these addresses alone.
  const std::string host = SplitHostPort(address).host;
  if (host != "127.0.0.1" && host != "localhost" && host != "::1") {
    return absl::FailedPreconditionError(absl::StrCat(
        Quoted(address),
        " is neither 127.0.0.1 nor [::1], and without a certificate keys would go over it in the clear"));
  }
  std::shared_ptr<grpc::ServerCredentials> made = grpc::experimental::LocalServerCredentials(LOCAL_TCP);
  made->SetAuthMetadataProcessor(MakeAccessProcessor(std::move(access)));
  return made;
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const NodeCertificate* credentials, const std::string& target, bool allow_plain) {
  if (credentials == nullptr) {
    if (absl::Status s = CheckPlainAndWarn(target, allow_plain); !s.ok()) return s;
    return grpc::InsecureChannelCredentials();
  }
  return grpc::SslCredentials({.pem_root_certs = credentials->authority,
                               .pem_private_key = credentials->key,
                               .pem_cert_chain = credentials->certificate});
}

std::string PeerNode(const grpc::ServerContextBase& context) {
  const std::shared_ptr<const grpc::AuthContext> peer = context.auth_context();
  return peer == nullptr ? "" : PeerNode(*peer);
}

std::string PeerNode(const grpc::AuthContext& peer) {
  if (!peer.IsPeerAuthenticated()) return "";
  const std::vector<grpc::string_ref> names = peer.FindPropertyValues(GRPC_X509_CN_PROPERTY_NAME);
  return names.size() == 1 ? std::string(names[0].data(), names[0].size()) : "";
}

}  // namespace omni
