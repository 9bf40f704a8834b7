#include "cluster/explain_link.h"

#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <memory>

#include <absl/strings/str_cat.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "cluster/host_port.h"
#include "cluster/openssl.h"
#include "engine/base/open_file.h"
#include "engine/base/quoted.h"

namespace omni {
namespace {

using Deadline = std::chrono::steady_clock::time_point;

// OpenSSL writes to sockets as to files: one that the other side has closed would end the process.
class IgnoreBrokenPipe {
 public:
  IgnoreBrokenPipe() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~IgnoreBrokenPipe() {
    if (sigismember(&before_, SIGPIPE) == 1) return;
    const timespec now{};
    while (::sigtimedwait(&pipe_, nullptr, &now) > 0 || errno == EINTR) {
    }
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  sigset_t pipe_, before_;
};

// Waits until the socket can be read or written.
bool Wait(int fd, short events, Deadline deadline) {
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  pollfd poll{fd, events, 0};
  return left.count() > 0 && ::poll(&poll, 1, static_cast<int>(left.count()) + 1) == 1;
}

absl::Status Unreachable(const std::string& target, const std::string& why) {
  return absl::UnavailableError(absl::StrCat(target, ": cannot be reached: ", why,
                                             "; see that a node listens there and nothing blocks it"));
}

absl::StatusOr<FileDescriptor> Connect(const std::string& target, Deadline deadline) {
  const HostPort address = SplitHostPort(target);
  if (address.port.empty())
    return absl::InvalidArgumentError(absl::StrCat(Quoted(target), " is not HOST:PORT"));
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found);
  if (error != 0) return Unreachable(target, ::gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, ::freeaddrinfo);
  std::string why = "it has no address";
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    FileDescriptor fd(::socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (fd.get() < 0) continue;
    int failed = ::connect(fd.get(), a->ai_addr, a->ai_addrlen) == 0 ? 0 : errno;
    if (failed == EINPROGRESS) {
      failed = ETIMEDOUT;
      socklen_t size = sizeof failed;
      if (Wait(fd.get(), POLLOUT, deadline))
        (void)::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &failed, &size);
    }
    if (failed == 0) return fd;
    why = std::strerror(failed);
  }
  return Unreachable(target, why);
}

std::string DatesOf(X509* certificate) {
  return absl::StrCat(TimeText(X509_get0_notBefore(certificate)), " until ",
                      TimeText(X509_get0_notAfter(certificate)));
}

// Why this node does not take the other's certificate.
absl::Status Rejected(const std::string& target, SSL* ssl) {
  const long result = SSL_get_verify_result(ssl);
  const X509Ptr certificate(SSL_get1_peer_certificate(ssl));
  const std::string until = certificate == nullptr ? "" : DatesOf(certificate.get());
  const auto error = [&](const std::string& what) {
    return absl::FailedPreconditionError(absl::StrCat(target, ": the node's certificate ", what));
  };
  switch (result) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return error(
          absl::StrCat("is over: it was valid from ", until, "; make it a new one with the authority"));
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return error(absl::StrCat("is not valid yet, but from ", until, "; set the clocks of both machines"));
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      return error(absl::StrCat("does not name ", Quoted(SplitHostPort(target).host),
                                "; make it one with that among its hosts, or call it as it is named there"));
    default:
      return error(absl::StrCat("is not one of this cluster's authority (",
                                X509_verify_cert_error_string(result),
                                "); all nodes get theirs from the same"));
  }
}

// Why the other node does not take ours, which is all that is wrong. A gRPC server closes the connection
// without a word; so this looks at what it should have seen.
absl::Status RejectedBy(const std::string& target, const NodeCertificate& credentials, SSL_CTX* context,
                        const std::string& how) {
  const auto error = [&](const std::string& what) { return absl::FailedPreconditionError(target + what); };
  X509* const own = SSL_CTX_get0_certificate(context);
  if (own == nullptr) {
    return error(
        ": the node there wants a certificate, and this node has none; make one with the cluster's "
        "authority");
  }
  const X509StoreContextPtr check(X509_STORE_CTX_new());
  if (check == nullptr ||
      X509_STORE_CTX_init(check.get(), SSL_CTX_get_cert_store(context), own, nullptr) != 1) {
    return OpenSslError("cannot check this node's certificate");
  }
  const int result = X509_verify_cert(check.get()) == 1 ? X509_V_OK : X509_STORE_CTX_get_error(check.get());
  const std::string who =
      absl::StrCat(": the node there refuses the certificate of ", Quoted(credentials.node));
  switch (result) {
    case X509_V_OK:
      return error(absl::StrCat(who, " (", how, "), with which nothing is wrong here: it is valid from ",
                                DatesOf(own), "; see that node's clock and log"));
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return error(absl::StrCat(who, ": it is over: it was valid from ", DatesOf(own),
                                "; make a new one with the authority"));
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return error(absl::StrCat(who, ": it is not valid yet, but from ", DatesOf(own),
                                "; set the clocks of both machines"));
    default:
      return error(absl::StrCat(who, ": it is not one of its cluster's authority (",
                                X509_verify_cert_error_string(result),
                                "); all nodes get theirs from the same"));
  }
}

absl::StatusOr<SslContextPtr> ContextOf(const NodeCertificate& credentials) {
  SslContextPtr context(SSL_CTX_new(TLS_client_method()));
  const X509Ptr authority = ParseCertificate(credentials.authority);
  if (context == nullptr || authority == nullptr ||
      X509_STORE_add_cert(SSL_CTX_get_cert_store(context.get()), authority.get()) != 1) {
    return OpenSslError("cannot use the authority's certificate");
  }
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  // What is wrong is noted and the handshake goes on, so that the certificate can be looked at.
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_NONE, nullptr);
  if (credentials.certificate.empty()) return context;
  const X509Ptr certificate = ParseCertificate(credentials.certificate);
  const KeyPtr key = ParseKey(credentials.key);
  if (certificate == nullptr || key == nullptr ||
      SSL_CTX_use_certificate(context.get(), certificate.get()) != 1 ||
      SSL_CTX_use_PrivateKey(context.get(), key.get()) != 1) {
    return OpenSslError("cannot use this node's certificate and key");
  }
  return context;
}

// The library's last reason, whose place in the code is of no interest; 0: none.
int LastReason() {
  int reason = 0;
  while (const unsigned long code = ERR_get_error()) reason = ERR_GET_REASON(code);
  return reason;
}

}  // namespace

absl::Status ExplainLink(const NodeCertificate& credentials, const std::string& target,
                         std::chrono::milliseconds timeout) {
  const IgnoreBrokenPipe ignore;
  const Deadline deadline = std::chrono::steady_clock::now() + timeout;
  const absl::StatusOr<SslContextPtr> context = ContextOf(credentials);
  if (!context.ok()) return context.status();
  const absl::StatusOr<FileDescriptor> socket = Connect(target, deadline);
  if (!socket.ok()) return socket.status();
  const SslPtr ssl(SSL_new(context->get()));
  const std::string host = SplitHostPort(target).host;
  // gRPC's protocol; a server that knows of no other ends the handshake otherwise.
  const unsigned char protocols[] = {2, 'h', '2'};
  X509_VERIFY_PARAM* const checks = ssl == nullptr ? nullptr : SSL_get0_param(ssl.get());
  if (checks == nullptr || SSL_set_fd(ssl.get(), socket->get()) != 1 ||
      SSL_set_alpn_protos(ssl.get(), protocols, sizeof protocols) != 0 ||
      (X509_VERIFY_PARAM_set1_ip_asc(checks, host.c_str()) != 1 &&
       (X509_VERIFY_PARAM_set1_host(checks, host.c_str(), 0) != 1 ||
        SSL_set_tlsext_host_name(ssl.get(), host.c_str()) != 1))) {
    return OpenSslError("cannot begin a TLS handshake");
  }
  // In TLS 1.3 the server judges after the client is done: its verdict comes with, or instead of, its first
  // bytes.
  bool shaken = false;
  while (true) {
    ERR_clear_error();
    char byte = 0;
    const int result = shaken ? SSL_read(ssl.get(), &byte, 1) : SSL_connect(ssl.get());
    if (result == 1 && SSL_get_verify_result(ssl.get()) != X509_V_OK) return Rejected(target, ssl.get());
    if (result == 1) {
      if (shaken) return absl::OkStatus();
      shaken = true;
      continue;
    }
    const int error = SSL_get_error(ssl.get(), result);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
      if (Wait(socket->get(), error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, deadline)) continue;
      return Unreachable(target, "it does not answer in time");
    }
    if (SSL_get_verify_result(ssl.get()) != X509_V_OK) return Rejected(target, ssl.get());
    const int reason = LastReason();
    if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_UNEXPECTED_MESSAGE ||
        reason == SSL_R_HTTP_REQUEST) {
      return absl::FailedPreconditionError(
          absl::StrCat(target, ": what listens there does not speak TLS; give that node a certificate too"));
    }
    if (reason == 0 && !shaken) return Unreachable(target, "it closed the connection");
    const char* const how = reason == 0 ? nullptr : ERR_reason_error_string(ERR_PACK(ERR_LIB_SSL, 0, reason));
    return RejectedBy(target, credentials, context->get(), how == nullptr ? "it closed the connection" : how);
  }
}

}  // namespace omni
