#include "tests/bench/serve_streams.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace omni::bench {
namespace {

constexpr std::string_view kHeadEnd = "\r\n\r\n", kOk = "HTTP/1.1 200";

void Note(const std::string& event, Clock::time_point came, StreamAnswer& answer) {
  constexpr std::string_view kData = "data: ";
  for (size_t at = event.find(kData); at != event.npos; at = event.find(kData, at)) {
    at += kData.size();
    const std::string data = event.substr(at, event.find('\n', at) - at);
    if (data == "[DONE]") {
      answer.whole = true;
      continue;
    }
    const nlohmann::json json = nlohmann::json::parse(data);
    if (json.contains("error")) Fail("a stream ended with " + data);
    if (json.contains("usage") && !json["usage"].is_null())
      answer.tokens = json["usage"]["completion_tokens"].get<int64_t>();
    for (const nlohmann::json& choice : json["choices"]) {
      const auto text = choice["text"].get<std::string>();
      if (text.empty()) continue;
      answer.text += text;
      answer.shown.push_back(came);
    }
  }
}

}  // namespace

ServeStreams::ServeStreams(const std::string& address)
    : port_(std::atoi(address.c_str() + address.rfind(':') + 1)), poll_(epoll_create1(EPOLL_CLOEXEC)) {}

ServeStreams::~ServeStreams() {
  for (const Stream& stream : streams_) {
    if (stream.fd >= 0) close(stream.fd);
  }
  close(poll_);
}

void ServeStreams::Ask(const nlohmann::json& request) {
  Stream stream;
  stream.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port_));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (stream.fd < 0 || connect(stream.fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0)
    Fail(std::string("a client cannot connect: ") + std::strerror(errno));
  const std::string body = request.dump();
  const std::string text =
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
      "Content-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body;
  if (send(stream.fd, text.data(), text.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(text.size()))
    Fail(std::string("a request cannot be sent: ") + std::strerror(errno));
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = streams_.size();
  if (epoll_ctl(poll_, EPOLL_CTL_ADD, stream.fd, &event) != 0) Fail("epoll takes no more connections");
  streams_.push_back(std::move(stream));
  ++open_;
}

void ServeStreams::Read(Stream& stream) {
  std::array<char, 65536> buffer;
  const ssize_t n = recv(stream.fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) Fail("a stream was cut off after " + std::to_string(stream.got.size()) + " bytes");
  const bool headless = stream.got.find(kHeadEnd) == stream.got.npos;
  stream.got.append(buffer.data(), static_cast<size_t>(n));
  stream.came.emplace_back(stream.got.size(), Clock::now());
  if (headless && stream.got.find(kHeadEnd) != stream.got.npos) {
    if (!stream.got.starts_with(kOk)) Fail("an answer is an error: " + stream.got);
    ++begun_;
  }
  if (stream.got.ends_with("\r\n0\r\n\r\n")) {
    close(std::exchange(stream.fd, -1));
    --open_;
  }
}

bool ServeStreams::ReadUntil(const std::function<bool()>& is_so, std::chrono::milliseconds limit) {
  const Clock::time_point end = Clock::now() + limit;
  std::array<epoll_event, 64> events;
  while (!is_so()) {
    const Clock::duration left = end - Clock::now();
    if (left <= Clock::duration::zero()) return false;
    const auto rounded_up = std::chrono::ceil<std::chrono::milliseconds>(left).count();
    const int ready =
        epoll_wait(poll_, events.data(), static_cast<int>(events.size()), static_cast<int>(rounded_up));
    for (int i = 0; i < ready; ++i) Read(streams_[events[static_cast<size_t>(i)].data.u64]);
  }
  return true;
}

StreamAnswer ServeStreams::At(size_t number) const {
  const Stream& stream = streams_[number];
  StreamAnswer answer;
  size_t at = stream.got.find(kHeadEnd);
  if (at == stream.got.npos) return answer;
  at += kHeadEnd.size();
  auto came = stream.came.begin();
  // By chunk; the last one may not be all there.
  while (true) {
    const size_t line = stream.got.find("\r\n", at);
    if (line == stream.got.npos) return answer;
    const size_t bytes = std::strtoul(stream.got.c_str() + at, nullptr, 16), begin = line + 2;
    if (bytes == 0 || begin + bytes > stream.got.size()) return answer;
    at = begin + bytes + 2;
    came = std::find_if(came, stream.came.end(), [&](const auto& c) { return c.first >= begin + bytes; });
    Note(stream.got.substr(begin, bytes), came->second, answer);
  }
}

}  // namespace omni::bench
