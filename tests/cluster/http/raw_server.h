// A server that says to its one client exactly what a test wants said.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <functional>
#include <future>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace omni::testing {

class RawServer {
 public:
  // What came of a request; and what is said then, piece by piece, before the connection is closed.
  using Script = std::function<std::vector<std::string>(const std::string& request)>;

  // One connection after the other. `certificates`: a node's folder, for TLS; empty: none.
  explicit RawServer(Script script, const std::string& certificates = "") : script_(std::move(script)) {
    fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&at), size), 0);
    EXPECT_EQ(listen(fd_, 8), 0);
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&at), &size), 0);
    port_ = std::to_string(ntohs(at.sin_port));
    if (!certificates.empty()) {
      std::signal(SIGPIPE, SIG_IGN);  // OpenSSL writes without asking for none
      tls_ = SSL_CTX_new(TLS_server_method());
      EXPECT_EQ(SSL_CTX_use_certificate_chain_file(tls_, (certificates + "/node.pem").c_str()), 1);
      EXPECT_EQ(SSL_CTX_use_PrivateKey_file(tls_, (certificates + "/node.key").c_str(), SSL_FILETYPE_PEM), 1);
    }
    thread_ = std::thread([this] { Serve(); });
  }
  ~RawServer() {
    shutdown(fd_, SHUT_RDWR);  // ends accept
    thread_.join();
    close(fd_);
    SSL_CTX_free(tls_);
  }
  RawServer(const RawServer&) = delete;
  RawServer& operator=(const RawServer&) = delete;

  const std::string& port() const { return port_; }
  std::string url() const { return (tls_ != nullptr ? "https://127.0.0.1:" : "http://127.0.0.1:") + port_; }
  // Whether a client has gone before all was said to it.
  bool WaitForGone() {
    return gone_.get_future().wait_for(std::chrono::minutes(1)) == std::future_status::ready;
  }

 private:
  void Serve() {
    for (int client; (client = accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0; close(client)) {
      SSL* ssl = nullptr;
      if (tls_ != nullptr) {
        ssl = SSL_new(tls_);
        SSL_set_fd(ssl, client);
        if (SSL_accept(ssl) == 1) Answer(client, ssl);
      } else {
        Answer(client, ssl);
      }
      SSL_free(ssl);
    }
  }
  static ssize_t Receive(int client, SSL* ssl, char* to, size_t most) {
    return ssl != nullptr ? SSL_read(ssl, to, static_cast<int>(most)) : recv(client, to, most, 0);
  }
  static bool Say(int client, SSL* ssl, std::string_view text) {
    while (!text.empty()) {
      const ssize_t n = ssl != nullptr ? SSL_write(ssl, text.data(), static_cast<int>(text.size()))
                                       : send(client, text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      text.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  void Answer(int client, SSL* ssl) {
    std::string request;
    char buffer[4096];
    size_t wanted = std::string::npos;  // bytes of the whole request
    while (request.size() < wanted) {
      const ssize_t n = Receive(client, ssl, buffer, sizeof buffer);
      if (n <= 0) return;
      request.append(buffer, static_cast<size_t>(n));
      if (request.front() == '\x16') break;  // a greeting of TLS where there is none
      const size_t head = request.find("\r\n\r\n");
      if (head == request.npos) continue;
      const size_t length = request.find("Content-Length: ");
      wanted = head + 4;
      if (length < head) wanted += std::strtoul(request.c_str() + length + 16, nullptr, 10);
    }
    for (const std::string& piece : script_(request)) {
      if (piece == kCut) return;
      if (piece == kUntilGone) {
        while (Receive(client, ssl, buffer, sizeof buffer) > 0) {
        }
        gone_.set_value();
        return;
      }
      if (!Say(client, ssl, piece)) return;
    }
    if (ssl != nullptr) SSL_shutdown(ssl);
  }

 public:
  // As a piece: the connection is closed without TLS's end.
  static constexpr char kCut[] = "\1cut";
  // As a piece: nothing more is said until the client goes.
  static constexpr char kUntilGone[] = "\1until the client is gone";

 private:
  const Script script_;
  int fd_ = -1;
  std::string port_;
  SSL_CTX* tls_ = nullptr;
  std::promise<void> gone_;
  std::thread thread_;
};

inline std::string Head(const std::string& status, const std::string& type, const std::string& more = "") {
  return "HTTP/1.1 " + status + "\r\nContent-Type: " + type + "\r\n" + more + "\r\n";
}

}  // namespace omni::testing
