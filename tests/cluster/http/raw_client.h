// A client that says on its connection exactly what a test wants said.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <gtest/gtest.h>

namespace omni::testing {

struct RawAnswer {
  int status = 0;
  std::map<std::string, std::string> headers;  // names as they came
  std::string body;                            // of chunks: what they hold
};

class RawClient {
 public:
  // `receive_bytes`: how much its system takes without its reading; 0: as usual.
  explicit RawClient(const std::string& address, int receive_bytes = 0) {
    const size_t colon = address.rfind(':');
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(std::atoi(address.c_str() + colon + 1)));
    inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr);
    fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (receive_bytes > 0) setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof to), 0) << address;
  }
  virtual ~RawClient() { Close(); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  void Close() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }
  void HalfClose() { shutdown(fd_, SHUT_WR); }

  // False once the server takes no more.
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = Put(bytes);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }

  // Until the text has come, after so many bytes of what was not read yet; false if the connection ended, or
  // a minute has passed, before.
  bool ReadUntil(std::string_view text, size_t after = 0) {
    while (got_.find(text, after) == got_.npos) {
      if (!More()) return false;
    }
    return true;
  }
  // All until the server closes.
  std::string ReadToEnd() {
    while (More()) {
    }
    return std::exchange(got_, {});
  }
  bool ended() const { return ended_; }
  const std::string& got() const { return got_; }

  // The next whole answer; nothing if the connection ends first.
  std::optional<RawAnswer> Read() {
    if (!ReadUntil("\r\n\r\n")) return std::nullopt;
    RawAnswer answer;
    const size_t head = got_.find("\r\n\r\n");
    answer.status = std::atoi(got_.c_str() + std::string_view("HTTP/1.1 ").size());
    for (size_t at = got_.find("\r\n") + 2; at < head;) {
      const size_t end = got_.find("\r\n", at), colon = got_.find(": ", at);
      answer.headers[got_.substr(at, colon - at)] = got_.substr(colon + 2, end - colon - 2);
      at = end + 2;
    }
    got_.erase(0, head + 4);
    if (answer.status < 200) return answer;
    if (!answer.headers.contains("Transfer-Encoding")) {
      const size_t length = std::strtoul(answer.headers["Content-Length"].c_str(), nullptr, 10);
      while (got_.size() < length) {
        if (!More()) return std::nullopt;
      }
      answer.body = got_.substr(0, length);
      got_.erase(0, length);
      return answer;
    }
    while (true) {
      if (!ReadUntil("\r\n")) return std::nullopt;
      const size_t length = std::strtoul(got_.c_str(), nullptr, 16), begin = got_.find("\r\n") + 2;
      while (got_.size() < begin + length + 2) {
        if (!More()) return std::nullopt;
      }
      answer.body += got_.substr(begin, length);
      got_.erase(0, begin + length + 2);
      if (length == 0) return answer;
    }
  }

 protected:
  // For what goes between this and the socket.
  virtual ssize_t Put(std::string_view bytes) { return send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL); }
  virtual ssize_t Take(char* buffer, size_t size) { return recv(fd_, buffer, size, 0); }
  virtual bool HasMore() { return false; }  // without asking the socket
  int fd() const { return fd_; }

 private:
  bool More() {
    if (ended_) return false;
    pollfd ready{fd_, POLLIN, 0};
    if (!HasMore() && poll(&ready, 1, 60'000) != 1) {
      ADD_FAILURE() << "the server says nothing; so far: " << got_;
      ended_ = true;
      return false;
    }
    char buffer[16384];
    const ssize_t n = Take(buffer, sizeof buffer);
    if (n > 0) got_.append(buffer, static_cast<size_t>(n));
    ended_ = n <= 0;
    return n > 0;
  }

  int fd_ = -1;
  bool ended_ = false;
  std::string got_;
};

inline std::string Get(const std::string& path, const std::string& headers = "") {
  return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + headers + "\r\n";
}

inline std::string Post(const std::string& path, const std::string& body, const std::string& headers = "") {
  return "POST " + path +
         " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n" + headers + "\r\n" + body;
}

}  // namespace omni::testing
