// How links between nodes are secured: mutual TLS, or nothing on loopback.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cluster/access.h"
#include "cluster/certificates.h"

namespace grpc {
class AuthContext;
class ChannelCredentials;
class ServerContextBase;
class ServerCredentials;
}  // namespace grpc

namespace omni {

// FailedPrecondition, unless `address` is a loopback address or `allow_plain`: what goes over it could be
// read and changed by anybody in between.
absl::Status CheckPlain(const std::string& address, bool allow_plain);

// `credentials` may be null: no TLS, if CheckPlain allows it (and a warning in the log if only `allow_plain`
// does).
//
// For a server that `address` is served by: clients must show a certificate of the same authority.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const NodeCertificate* credentials, const std::string& address, bool allow_plain);
// For one that wants keys (cluster/grpc_access.h): whoever shows a certificate must show one of the same
// authority and is a node; whoever shows none must have a key. Without `credentials` there are no nodes, and
// FailedPrecondition unless `address` is 127.0.0.1, localhost or [::1]: a key is not sent in the clear.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const NodeCertificate* credentials, const std::string& address, std::shared_ptr<Access> access);
// What a server shows, and what it checks clients by.
struct ServerPems {
  std::string authority;  // of clients' certificates; empty: none is asked for
  std::string certificate, key;
  uint64_t version = 1;  // another whenever one of them is
};
using PemSource = std::function<ServerPems()>;  // thread-safe, and does not wait
// The same by what `source` says when a connection begins; what cannot be used leaves what was used before.
// `must`: clients must show a certificate. `access` null: no keys are wanted. For one port.
std::shared_ptr<grpc::ServerCredentials> MakeReloadedCredentials(PemSource source, bool must,
                                                                 std::shared_ptr<Access> access);
// For a client of `target`: the server must show a certificate of the same authority that names the target's
// host.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const NodeCertificate* credentials, const std::string& target, bool allow_plain);

// The node that calls, by the certificate that it showed; empty: none, the link is not secured.
std::string PeerNode(const grpc::ServerContextBase& context);
std::string PeerNode(const grpc::AuthContext& peer);

}  // namespace omni
