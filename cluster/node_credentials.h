// Whether, and with what, a node's links are encrypted.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

namespace grpc {
class ChannelCredentials;
class ServerCredentials;
}  // namespace grpc

namespace omni {

class Access;
struct NodeCertificate;
class TlsContext;

class NodeCredentials {
 public:
  NodeCredentials();
  ~NodeCredentials();

  // `folder`: of a node's certificate (certificates.h); empty: none, which is refused if one of the
  // addresses (where it listens, whom it calls) is off loopback, unless `allow_plain`, and then said in
  // the log at each start. At least one address.
  // `access`, if not null: the server wants keys of clients that are no nodes; the last address is its own.
  // With `tls` and no folder it has TLS by that, and there are no other nodes.
  static absl::StatusOr<std::unique_ptr<NodeCredentials>> Make(const std::string& folder,
                                                               const std::vector<std::string>& addresses,
                                                               bool allow_plain,
                                                               std::shared_ptr<Access> access = nullptr,
                                                               std::shared_ptr<TlsContext> tls = nullptr);
  // What a call to `address` that ended as unavailable says, with the reason why no secured link can be made
  // if that is it. Waits for up to a second; every other status comes back as it is.
  absl::Status Explain(absl::Status status, const std::string& address) const;

  const std::shared_ptr<grpc::ServerCredentials>& server() const { return server_; }
  const std::shared_ptr<grpc::ChannelCredentials>& channel() const { return channel_; }

 private:
  std::unique_ptr<const NodeCertificate> certificate_;  // null: none
  std::shared_ptr<grpc::ServerCredentials> server_;
  std::shared_ptr<grpc::ChannelCredentials> channel_;
};

}  // namespace omni
