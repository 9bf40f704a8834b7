#include "cluster/http/http_server.h"

#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_set>

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include "cluster/host_port.h"
#include "engine/base/log.h"

namespace omni {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr size_t kMostAhead = 16 << 10;  // bytes of further requests that wait here; the rest with the client
constexpr size_t kMostLingered = 16 << 20;  // of a refused body that is still coming

}  // namespace

const char* HttpReason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Payload Too Large";
    case 415:
      return "Unsupported Media Type";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Unknown";
  }
}

std::string HttpRequest::Header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return {};
}

namespace {
class Connection;
}

struct HttpServer::Impl {
  Impl(HttpServerOptions o, HttpHandler& h) : options(std::move(o)), handler(h) {}

  absl::Status Listen();
  void Accept();
  void OnAccepted(tcp::socket socket);
  void Remove(const std::shared_ptr<Connection>& connection);
  void CountBusy(int change);

  HttpServerOptions options;
  HttpHandler& handler;
  // Shared with whoever may post: it may outlive the server, and does nothing then.
  std::shared_ptr<asio::io_context> io = std::make_shared<asio::io_context>(1);
  tcp::acceptor acceptor{*io};
  asio::steady_timer again{*io};
  std::unordered_set<std::shared_ptr<Connection>> connections;
  std::array<char, 16 << 10> chunk;  // what one connection reads at a time
  bool draining = false;
  size_t held = 0;  // bytes of bodies
  std::string address;
  std::atomic<int64_t> count{0};

  std::mutex busy_mutex;
  std::condition_variable changed;
  int busy = 0;  // connections with a request or an answer under way
  std::thread thread;
};

namespace {

class Exchange;

// All on the server's thread.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(HttpServer::Impl& server, tcp::socket socket)
      : server_(server), socket_(std::move(socket)), waiting_(*server.io), writing_timer_(*server.io) {}

  void Start() {
    Await(server_.options.idle);
    Read();
  }
  void CloseIfIdle() {
    if (phase_ == Phase::kIdle && !sending()) Close();
  }
  void Close();

  // Of the exchange.
  void Answer(const HttpAnswer& answer);
  void Begin(const HttpAnswer& head);
  void Write(std::string_view piece);
  void End();
  size_t unsent() const { return out_.size() + sending_.size() - sent_; }
  bool Has(const Exchange* exchange) const { return exchange_.get() == exchange && !over_; }

 private:
  // kIdle: nothing of a request has come; kEnding: the last answer is being sent.
  enum class Phase { kIdle, kHead, kBody, kHandling, kEnding, kLingering, kClosed };

  void Enter(Phase phase) {
    SetBusy(phase != Phase::kIdle && phase != Phase::kLingering && phase != Phase::kClosed);
    phase_ = phase;
  }
  void SetBusy(bool busy) {
    if (busy != busy_) server_.CountBusy(busy ? 1 : -1);
    busy_ = busy;
  }
  // Bytes of a body that are here until the answer is over.
  void Hold(size_t bytes) {
    server_.held += bytes - held_;
    held_ = bytes;
  }
  bool sending() const { return writing_ || !out_.empty(); }

  void Await(std::chrono::milliseconds most);
  void OnTooLate();
  void Read();
  void OnReadable(const error_code& error);
  void OnHalfClosed();
  void Parse();
  void Dispatch();
  void Refuse(int status, const std::string& why);
  void RefuseParse(const error_code& error);
  std::string Head(const HttpAnswer& answer, const std::string& length);
  void Over();
  void Send(std::string_view bytes);
  void Flush();
  void OnWritten(const error_code& error, size_t bytes);
  void OnSent();
  void Next();
  void Done(bool gone);

  HttpServer::Impl& server_;
  tcp::socket socket_;
  Phase phase_ = Phase::kIdle;
  bool busy_ = false;
  asio::steady_timer waiting_, writing_timer_;

  std::string in_;
  bool reading_ = false, half_closed_ = false, probing_ = false;
  size_t lingered_ = 0, held_ = 0;
  std::optional<http::request_parser<http::string_body>> parser_;

  bool keep_alive_ = true, old_ = false, head_only_ = false;  // of the request; old_: HTTP/1.0
  std::shared_ptr<Exchange> exchange_;
  std::shared_ptr<HttpCall> call_;
  bool begun_ = false, over_ = false;  // of the answer
  HttpDone done_;
  Clock::time_point started_;

  std::string out_, sending_;
  size_t sent_ = 0;  // of sending_
  bool writing_ = false;
};

class Exchange final : public HttpExchange {
 public:
  Exchange(std::shared_ptr<asio::io_context> io, std::weak_ptr<Connection> connection)
      : io_(std::move(io)), connection_(std::move(connection)) {}
  void Answer(const HttpAnswer& answer) override {
    if (auto c = Mine()) c->Answer(answer);
  }
  void Begin(const HttpAnswer& head) override {
    if (auto c = Mine()) c->Begin(head);
  }
  void Write(std::string_view piece) override {
    if (auto c = Mine()) c->Write(piece);
  }
  void End() override {
    if (auto c = Mine()) c->End();
  }
  size_t unsent() const override {
    const auto c = Mine();
    return c == nullptr ? 0 : c->unsent();
  }
  void Post(std::function<void()> deed) override { asio::post(*io_, std::move(deed)); }

 private:
  std::shared_ptr<Connection> Mine() const {
    auto c = connection_.lock();
    return c != nullptr && c->Has(this) ? c : nullptr;
  }
  std::shared_ptr<asio::io_context> io_;
  std::weak_ptr<Connection> connection_;
};

void Connection::Await(std::chrono::milliseconds most) {
  waiting_.expires_after(most);
  waiting_.async_wait([self = shared_from_this()](const error_code& error) {
    // What was waited for may have come in the same moment; then it waits for something later.
    if (!error && self->waiting_.expiry() <= Clock::now()) self->OnTooLate();
  });
}

void Connection::OnTooLate() {
  switch (phase_) {
    case Phase::kHead:
      return Refuse(408, "the request's headers did not come in time");
    case Phase::kBody:
      return Refuse(408, "the request's body did not come in time");
    case Phase::kHandling:
      Await(server_.options.quiet);
      if (call_ != nullptr && !over_) call_->OnQuiet();
      return;
    case Phase::kIdle:
    case Phase::kLingering:
      return Close();
    case Phase::kEnding:
    case Phase::kClosed:
      return;
  }
}

void Connection::Read() {
  if (reading_ || half_closed_ || phase_ == Phase::kClosed) return;
  if (phase_ >= Phase::kHandling && in_.size() >= kMostAhead) return;
  reading_ = true;
  socket_.async_wait(tcp::socket::wait_read, [self = shared_from_this()](const error_code& error) {
    self->reading_ = false;
    self->OnReadable(error);
  });
}

void Connection::OnReadable(const error_code& waited) {
  if (phase_ == Phase::kClosed) return;
  error_code error = waited;
  size_t bytes = 0;
  if (!error) bytes = socket_.read_some(asio::buffer(server_.chunk), error);
  if (error == asio::error::would_block || error == asio::error::try_again) return Read();
  if (error == asio::error::eof) {
    half_closed_ = true;
    return OnHalfClosed();
  }
  if (error) return Close();
  if (phase_ >= Phase::kHandling && !keep_alive_) {  // nothing that comes now will be looked at
    lingered_ += bytes;
    if (lingered_ > kMostLingered) return Close();
  } else {
    in_.append(server_.chunk.data(), bytes);
    Parse();
  }
  Read();
}

// No more is coming; whether the client is there shows when it is sent something.
void Connection::OnHalfClosed() {
  if (phase_ == Phase::kEnding) return;  // what is being sent shows it
  if (phase_ != Phase::kHandling) return Close();
  if (call_ == nullptr || over_) return;
  if (!std::exchange(probing_, true)) {
    socket_.async_wait(tcp::socket::wait_error, [self = shared_from_this()](const error_code& error) {
      if (!error) self->Close();
    });
  }
  call_->OnQuiet();
  if (over_ || begun_) return;
  if (old_) return Close();  // before HTTP/1.1 nothing may be said ahead of an answer
  Send("HTTP/1.1 102 Processing\r\n\r\n");
}

void Connection::Parse() {
  while (!in_.empty() && phase_ < Phase::kHandling) {
    if (phase_ == Phase::kIdle) {
      parser_.emplace();
      parser_->eager(true);
      parser_->header_limit(server_.options.head_bytes);
      parser_->body_limit(server_.options.body_bytes);
      Enter(Phase::kHead);
      Await(server_.options.head_time);
    }
    error_code error;
    const size_t used = parser_->put(asio::buffer(in_), error);
    in_.erase(0, used);
    if (error && error != http::error::need_more) return RefuseParse(error);
    if (phase_ == Phase::kHead && parser_->is_header_done()) {
      Enter(Phase::kBody);
      Await(server_.options.body_time);
      if (!parser_->is_done() &&
          absl::EqualsIgnoreCase(std::string(parser_->get()[http::field::expect]), "100-continue")) {
        Send("HTTP/1.1 100 Continue\r\n\r\n");
      }
    }
    Hold(parser_->get().body().size());
    if (server_.held > server_.options.all_bodies)
      return Refuse(503, "too much is being sent to this server at the moment; come back in a moment");
    if (parser_->is_done()) return Dispatch();
    if (used == 0) return;
  }
}

void Connection::RefuseParse(const error_code& error) {
  if (error == http::error::header_limit) {
    return Refuse(431, absl::StrCat("the request's line and headers are more than ",
                                    server_.options.head_bytes, " bytes"));
  }
  if (error == http::error::body_limit) {
    return Refuse(413,
                  absl::StrCat("the request's body is more than ", server_.options.body_bytes, " bytes"));
  }
  if (error == http::error::bad_version) return Refuse(505, "this server speaks HTTP/1.1");
  Refuse(400, absl::StrCat("this is no HTTP request: ", error.message()));
}

void Connection::Refuse(int status, const std::string& why) {
  keep_alive_ = old_ = head_only_ = false;
  in_.clear();
  parser_.reset();
  started_ = Clock::now();
  done_ = {};
  begun_ = over_ = false;
  Enter(Phase::kHandling);
  Answer(server_.handler.OnRefused(status, why));
}

void Connection::Dispatch() {
  const auto message = parser_->release();
  parser_.reset();
  HttpRequest request;
  request.method = std::string(message.method_string());
  const std::string target(message.target());
  const size_t query = target.find('?');
  request.path = target.substr(0, query);
  if (query != std::string::npos) request.query = target.substr(query + 1);
  for (const auto& field : message) {
    request.headers.emplace_back(absl::AsciiStrToLower(std::string(field.name_string())),
                                 std::string(field.value()));
  }
  request.body = message.body();
  old_ = message.version() < 11;
  keep_alive_ = message.keep_alive();
  head_only_ = message.method() == http::verb::head;
  started_ = Clock::now();
  done_ = {};
  done_.path = request.path;
  begun_ = over_ = false;
  Enter(Phase::kHandling);
  Await(server_.options.quiet);
  exchange_ = std::make_shared<Exchange>(server_.io, weak_from_this());
  std::shared_ptr<HttpCall> call;
  try {
    call = server_.handler.OnRequest(std::move(request), exchange_);
  } catch (const std::exception& e) {  // no memory: one request does not take the server
    LogError("http_handler_failed", "a request could not be handled: {reason}",
             {{"reason", std::string_view(e.what())}});
    return Refuse(500, "the request could not be handled");
  }
  if (over_) return;
  call_ = std::move(call);
  if (half_closed_) OnHalfClosed();
}

std::string Connection::Head(const HttpAnswer& answer, const std::string& length) {
  if (server_.draining) keep_alive_ = false;
  done_.status = answer.status;
  std::string head = absl::StrCat("HTTP/1.1 ", answer.status, " ", HttpReason(answer.status),
                                  "\r\nContent-Type: ", answer.content_type, "\r\n", length,
                                  "Connection: ", keep_alive_ ? "keep-alive" : "close", "\r\n");
  for (const auto& [name, value] : answer.headers) absl::StrAppend(&head, name, ": ", value, "\r\n");
  absl::StrAppend(&head, "\r\n");
  return head;
}

void Connection::Answer(const HttpAnswer& answer) {
  Send(Head(answer, absl::StrCat("Content-Length: ", answer.body.size(), "\r\n")));
  if (!head_only_) Send(answer.body);
  Over();
}

void Connection::Begin(const HttpAnswer& head) {
  begun_ = true;
  if (old_) keep_alive_ = false;  // the end of the connection is that of the answer
  Send(Head(head, old_ ? "" : "Transfer-Encoding: chunked\r\n"));
}

void Connection::Write(std::string_view piece) {
  if (piece.empty()) return;  // an empty chunk would be the end
  Await(server_.options.quiet);
  if (old_) return Send(piece);
  Send(absl::StrCat(absl::Hex(piece.size()), "\r\n"));
  Send(piece);
  Send("\r\n");
}

void Connection::End() {
  if (!old_) Send("0\r\n\r\n");
  Over();
}

// The answer is complete; the rest when it has been sent.
void Connection::Over() {
  over_ = true;
  Enter(Phase::kEnding);
  waiting_.cancel();
  // Whoever answers may be within the call.
  asio::post(*server_.io, [self = shared_from_this()] {
    if (self->phase_ != Phase::kEnding) return;
    self->call_ = nullptr;
    self->exchange_ = nullptr;
    self->Hold(0);
    if (!self->sending()) self->OnSent();
  });
}

void Connection::Send(std::string_view bytes) {
  if (phase_ == Phase::kClosed) return;
  out_.append(bytes.data(), bytes.size());
  // What is written in one go leaves in one packet.
  if (!writing_) {
    writing_ = true;
    asio::post(*server_.io, [self = shared_from_this()] { self->Flush(); });
  }
}

void Connection::Flush() {
  if (phase_ == Phase::kClosed) return;
  if (sent_ == sending_.size()) {
    sending_.clear();
    sent_ = 0;
    sending_.swap(out_);
  }
  writing_timer_.expires_after(server_.options.write_time);
  writing_timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (!error && self->writing_timer_.expiry() <= Clock::now()) self->Close();
  });
  socket_.async_write_some(
      asio::buffer(sending_.data() + sent_, sending_.size() - sent_),
      [self = shared_from_this()](const error_code& error, size_t bytes) { self->OnWritten(error, bytes); });
}

void Connection::OnWritten(const error_code& error, size_t bytes) {
  if (phase_ == Phase::kClosed) return;
  if (error) return Close();
  sent_ += bytes;
  if (sent_ < sending_.size() || !out_.empty()) return Flush();
  writing_ = false;
  sending_ = {};
  sent_ = 0;
  writing_timer_.cancel();
  OnSent();
}

void Connection::OnSent() {
  if (phase_ == Phase::kHandling && call_ != nullptr) call_->OnSent();
  if (phase_ == Phase::kEnding && call_ == nullptr && exchange_ == nullptr && !sending()) Next();
}

void Connection::Next() {
  Done(false);
  if (keep_alive_ && !server_.draining) {
    Enter(Phase::kIdle);
    Await(server_.options.idle);
    Parse();
    if (half_closed_ && phase_ < Phase::kHandling) return Close();
    return Read();
  }
  if (half_closed_) return Close();
  // Closed now, what the client still sends would make its system throw our answer away.
  error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  Enter(Phase::kLingering);
  in_.clear();
  Await(server_.options.linger);
  Read();
}

void Connection::Done(bool gone) {
  done_.gone = gone;
  done_.took = Clock::now() - started_;
  server_.handler.OnDone(done_);
}

void Connection::Close() {
  if (phase_ == Phase::kClosed) return;
  if (phase_ == Phase::kHandling || phase_ == Phase::kEnding) Done(true);
  Enter(Phase::kClosed);
  const auto self = shared_from_this();
  Hold(0);
  call_ = nullptr;
  exchange_ = nullptr;
  waiting_.cancel();
  writing_timer_.cancel();
  error_code ignored;
  socket_.close(ignored);
  server_.Remove(self);
}

}  // namespace

namespace {

absl::StatusOr<tcp::endpoint> ReadEndpoint(const std::string& listen) {
  const HostPort parts = SplitHostPort(listen);
  const std::string host = parts.host == "localhost" ? "127.0.0.1" : parts.host;
  error_code error;
  const asio::ip::address ip = asio::ip::make_address(host, error);
  int port = 0;
  if (error || !absl::SimpleAtoi(parts.port, &port) || port < 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", listen, "' is no ADDRESS:PORT to listen on, as 127.0.0.1:8080"));
  }
  if (!ip.is_loopback()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", listen,
        "': HTTP is served on loopback only, since there are no keys and no TLS for it yet; listen on "
        "127.0.0.1, and put a proxy that has them in front"));
  }
  return tcp::endpoint(ip, static_cast<uint16_t>(port));
}

}  // namespace

absl::Status CheckHttpAddress(const std::string& listen) { return ReadEndpoint(listen).status(); }

absl::Status HttpServer::Impl::Listen() {
  const absl::StatusOr<tcp::endpoint> read = ReadEndpoint(options.listen);
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
    OnAccepted(std::move(socket));
    Accept();
  });
}

void HttpServer::Impl::OnAccepted(tcp::socket socket) {
  error_code error;
  socket.non_blocking(true, error);
  socket.set_option(tcp::no_delay(true), error);
  if (connections.size() >= options.most_connections) {
    const HttpAnswer full = handler.OnRefused(503, "too many connections are open; come back in a moment");
    const std::string text =
        absl::StrCat("HTTP/1.1 503 Service Unavailable\r\nContent-Type: ", full.content_type,
                     "\r\nContent-Length: ", full.body.size(),
                     "\r\nRetry-After: 1\r\nConnection: close\r\n\r\n", full.body);
    socket.write_some(asio::buffer(text), error);  // into the socket's empty buffer
    return;
  }
  auto connection = std::make_shared<Connection>(*this, std::move(socket));
  connections.insert(connection);
  count = static_cast<int64_t>(connections.size());
  connection->Start();
}

void HttpServer::Impl::Remove(const std::shared_ptr<Connection>& connection) {
  connections.erase(connection);
  count = static_cast<int64_t>(connections.size());
}

void HttpServer::Impl::CountBusy(int change) {
  std::lock_guard lock(busy_mutex);
  busy += change;
  if (busy == 0) changed.notify_all();
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
    const auto all = impl->connections;
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
    const auto all = impl_->connections;
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
