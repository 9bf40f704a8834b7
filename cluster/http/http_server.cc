#include "cluster/http/http_server.h"

#include <sys/resource.h>

#include <algorithm>
#include <new>
#include <thread>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <boost/asio/post.hpp>

#include "cluster/host_port.h"
#include "cluster/http/http_connection.h"
#include "cluster/loopback.h"
#include "engine/base/log.h"

namespace omni {

using http_internal::Connection;
using http_internal::error_code;
using http_internal::asio::ip::tcp;
namespace asio = http_internal::asio;

struct HttpServer::Impl : public http_internal::Connections {
  using Connections::Connections;

  absl::Status Listen();
  void Accept();
  void OnAccepted(tcp::socket socket);

  tcp::acceptor acceptor{*io};
  asio::steady_timer again{*io};
  std::string address;
  std::thread thread;
};

namespace {

absl::StatusOr<tcp::endpoint> ReadEndpoint(const std::string& listen, HttpSecurity security) {
  const HostPort parts = SplitHostPort(listen);
  const std::string host = parts.host == "localhost" ? "127.0.0.1" : parts.host;
  error_code error;
  const asio::ip::address ip = asio::ip::make_address(host, error);
  int port = 0;
  if (error || !absl::SimpleAtoi(parts.port, &port) || port < 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", listen, "' is no ADDRESS:PORT to listen on, as 127.0.0.1:8080"));
  }
  if (!IsLoopback(ip.to_string()) && !(security.tls && security.keys)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", listen, "' is off loopback, where HTTP needs TLS and keys; ",
        security.tls ? "keys are missing: make one with omni key create, and name the file with --keys"
        : security.keys
            ? "TLS is missing: name a certificate and its key with --tls-cert and --tls-key"
            : "both are missing: name a certificate and its key with --tls-cert and --tls-key, and a "
              "file of keys, which omni key create makes, with --keys",
        "; or listen on 127.0.0.1"));
  }
  return tcp::endpoint(ip, static_cast<uint16_t>(port));
}

}  // namespace

absl::Status CheckHttpAddress(const std::string& listen, HttpSecurity security) {
  return ReadEndpoint(listen, security).status();
}

absl::Status HttpServer::Impl::Listen() {
  const absl::StatusOr<tcp::endpoint> read =
      ReadEndpoint(options.listen, {options.tls != nullptr, options.keys});
  if (!read.ok()) return read.status();
  const tcp::endpoint endpoint = *read;
  const asio::ip::address ip = endpoint.address();
  error_code error;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (!error) acceptor.non_blocking(true, error);
  if (error) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.listen, ": ", error.message(),
                                               "; choose another port, 0 for a free one"));
  }
  const uint16_t found = acceptor.local_endpoint().port();
  address =
      ip.is_v6() ? absl::StrCat("[", ip.to_string(), "]:", found) : absl::StrCat(ip.to_string(), ":", found);
  rlimit files{};
  constexpr rlim_t kOthers = 64;  // that the rest of the process may have open
  if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur != RLIM_INFINITY) {
    options.most_connections =
        std::min<size_t>(options.most_connections, std::max<rlim_t>(files.rlim_cur, 2 * kOthers) - kOthers);
  }
  return absl::OkStatus();
}

void HttpServer::Impl::Accept() {
  acceptor.async_accept([this](const error_code& error, tcp::socket socket) {
    if (error == asio::error::operation_aborted) return;
    if (error) {
      LogWarning("http_not_accepted", "a connection cannot be accepted: {reason}",
                 {{"reason", std::string_view(error.message())}});
      again.expires_after(std::chrono::milliseconds(100));
      again.async_wait([this](const error_code& stopped) {
        if (!stopped) Accept();
      });
      return;
    }
    try {
      OnAccepted(std::move(socket));
    } catch (const std::bad_alloc&) {  // it is closed
    }
    Accept();
  });
}

void HttpServer::Impl::OnAccepted(tcp::socket socket) {
  error_code error;
  socket.non_blocking(true, error);
  socket.set_option(tcp::no_delay(true), error);
  if (all.size() >= options.most_connections && options.tls != nullptr) return;  // a handshake costs too much
  if (all.size() >= options.most_connections) {
    const HttpAnswer full = handler.OnRefused(503, "too many connections are open; come back in a moment");
    const std::string text =
        absl::StrCat("HTTP/1.1 503 Service Unavailable\r\nContent-Type: ", full.content_type,
                     "\r\nContent-Length: ", full.body.size(), "\r\nX-Request-Id: ", NewRequestId(),
                     "\r\nRetry-After: 1\r\nConnection: close\r\n\r\n", full.body);
    socket.write_some(asio::buffer(text), error);  // into the socket's empty buffer
    return;
  }
  std::unique_ptr<TlsSession> tls;
  if (options.tls != nullptr && (tls = options.tls->Begin()) == nullptr) return;
  auto connection = std::make_shared<Connection>(*this, std::move(socket), std::move(tls));
  all.insert(connection);
  count = static_cast<int64_t>(all.size());
  connection->Start();
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Listen(HttpServerOptions options,
                                                               HttpHandler& handler) {
  auto impl = std::make_unique<Impl>(std::move(options), handler);
  if (absl::Status s = impl->Listen(); !s.ok()) return s;
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

void HttpServer::Run() {
  impl_->Accept();
  impl_->thread = std::thread([io = impl_->io] { io->run(); });
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() {
  if (!impl_->thread.joinable()) return;
  asio::post(*impl_->io, [impl = impl_.get()] {
    error_code ignored;
    impl->acceptor.close(ignored);
    impl->again.cancel();
    const auto all = impl->all;
    for (const auto& connection : all) connection->Close();
    asio::post(*impl->io, [impl] { impl->io->stop(); });
  });
  impl_->thread.join();
}

const std::string& HttpServer::address() const { return impl_->address; }
int64_t HttpServer::connections() const { return impl_->count; }

bool HttpServer::Drain(std::chrono::milliseconds most) {
  std::mutex& mutex = impl_->busy_mutex;
  bool begun = false;
  asio::post(*impl_->io, [this, &begun] {
    impl_->draining = true;
    const auto all = impl_->all;
    for (const auto& connection : all) connection->CloseIfIdle();
    std::lock_guard lock(impl_->busy_mutex);
    begun = true;
    impl_->changed.notify_all();
  });
  std::unique_lock lock(mutex);
  impl_->changed.wait(lock, [&] { return begun; });
  return impl_->changed.wait_for(lock, most, [this] { return impl_->busy == 0; });
}

}  // namespace omni
