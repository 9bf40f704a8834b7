#include "cluster/http/http_connection.h"

#include <algorithm>
#include <exception>

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/http/status.hpp>

#include "engine/base/log.h"

namespace omni {

std::string HttpRequest::Header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return {};
}

namespace http_internal {
namespace {

constexpr size_t kMostAhead = 16 << 10;  // bytes of further requests that wait here; the rest with the client
constexpr size_t kMostLingered = 16 << 20;  // of a refused body that is still coming

std::string ReasonOf(int status) {
  return std::string(http::obsolete_reason(static_cast<http::status>(status)));
}

constexpr char kFailed[] = "the request could not be handled";

void HandlerFailed(std::string_view reason, const RequestRecord& record) {
  LogError("http_handler_failed", "a request could not be handled: {reason}",
           {{"reason", reason}, {"request", record.ids.request}});
}

// All but the body.
HttpRequest RequestOf(const http::request_header<>& head) {
  HttpRequest request;
  request.method = std::string(head.method_string());
  const std::string target(head.target());
  const size_t query = target.find('?');
  request.path = target.substr(0, query);
  if (query != std::string::npos) request.query = target.substr(query + 1);
  for (const auto& field : head) {
    request.headers.emplace_back(absl::AsciiStrToLower(std::string(field.name_string())),
                                 std::string(field.value()));
  }
  request.record = std::make_shared<RequestRecord>();
  request.record->ids = ReadRequestIds(request.Header(kRequestIdHeader), request.Header(kTraceparentHeader));
  return request;
}

}  // namespace

class Exchange final : public HttpExchange, public std::enable_shared_from_this<Exchange> {
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
  void Post(std::function<void()> deed) override {
    asio::post(*io_, [weak = connection_, exchange = weak_from_this(), deed = std::move(deed)] {
      try {
        deed();
      } catch (const std::exception& e) {
        const auto connection = weak.lock();
        const auto self = exchange.lock();
        if (connection != nullptr && self != nullptr && connection->Has(self.get())) {
          connection->OnFailed(e.what());
        } else {
          HandlerFailed(e.what(), {});  // whoever it was for has gone
        }
      }
    });
  }

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
    if (!error && self->waiting_.expiry() <= Clock::now()) self->Try([&] { self->OnTooLate(); });
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
    case Phase::kHandshake:
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
    self->Try([&] { self->OnReadable(error); });
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
  } else if (tls_ != nullptr) {
    OnSealed({server_.chunk.data(), bytes});
  } else {
    in_.append(server_.chunk.data(), bytes);
    Parse();
  }
  Read();
}

void Connection::OnSealed(std::string_view bytes) {
  const TlsSession::State state = tls_->Receive(bytes, in_, sealed_);
  if (state == TlsSession::State::kPlain) {
    tls_ = nullptr;
    return Refuse(400, "this server speaks HTTPS: ask for https:// instead of http://");
  }
  if (sealed_.size() > kMostAhead) return Close();  // it asks and does not read what it is told
  if (state == TlsSession::State::kFailed) {
    LogDebug("tls_failed", "a connection's TLS has failed: {reason}", {{"reason", tls_->failure()}});
    error_code ignored;
    if (!writing_) socket_.write_some(asio::buffer(sealed_), ignored);  // what it is to be told of it
    return Close();
  }
  if (!sealed_.empty()) FlushSoon();
  if (state == TlsSession::State::kHandshake) return;
  if (phase_ == Phase::kHandshake) {
    Enter(Phase::kIdle);
    Await(server_.options.idle);
  }
  Parse();
  if (state != TlsSession::State::kEnded || phase_ == Phase::kClosed) return;
  half_closed_ = true;
  OnHalfClosed();
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
      if (!parser_->is_done()) {
        if (const HttpRequest head = RequestOf(parser_->get().base()); RefusedByHead(head)) return;
      }
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

bool Connection::RefusedByHead(const HttpRequest& head) {
  try {
    const std::optional<HttpAnswer> refusal = server_.handler.OnHead(head);
    if (refusal.has_value()) Refuse(*refusal, head);
    return refusal.has_value();
  } catch (const std::exception& e) {
    HandlerFailed(e.what(), *head.record);
    Refuse(server_.handler.OnRefused(500, kFailed), head);
    return true;
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

void Connection::Refuse(const HttpAnswer& answer, const HttpRequest& head) {
  keep_alive_ = old_ = head_only_ = false;
  in_.clear();
  parser_.reset();
  BeginRequest(head);
  Answer(answer);
}

void Connection::BeginRequest(const HttpRequest& head) {
  record_ = head.record;
  if (record_ == nullptr) {  // it never was a request
    record_ = std::make_shared<RequestRecord>();
    record_->ids.request = NewRequestId();
  }
  started_ = Clock::now();
  done_ = {};
  done_.method = head.method;
  done_.path = head.path;
  done_.record = record_;
  begun_ = over_ = false;
  Enter(Phase::kHandling);
}

void Connection::Dispatch() {
  auto message = parser_->release();
  parser_.reset();
  HttpRequest request = RequestOf(message.base());
  request.body = std::move(message.body());
  old_ = message.version() < 11;
  keep_alive_ = message.keep_alive();
  head_only_ = message.method() == http::verb::head;
  BeginRequest(request);
  Await(server_.options.quiet);
  exchange_ = std::make_shared<Exchange>(server_.io, weak_from_this());
  std::shared_ptr<HttpCall> call;
  try {
    call = server_.handler.OnRequest(std::move(request), exchange_);
  } catch (const std::exception& e) {  // no memory: one request does not take the server
    return OnFailed(e.what());
  }
  call_ = std::move(call);
  if (over_) return;
  if (half_closed_) OnHalfClosed();
}

void Connection::OnFailed(const char* reason) {
  if (phase_ == Phase::kClosed) return;
  HandlerFailed(reason, record_ == nullptr ? RequestRecord() : *record_);
  // The client must not take what it has for a whole answer.
  if (phase_ != Phase::kHandling || begun_ || over_) return Close();
  call_ = nullptr;
  exchange_ = nullptr;
  HttpRequest head;
  head.method = done_.method;
  head.path = done_.path;
  head.record = record_;
  try {
    Refuse(server_.handler.OnRefused(500, kFailed), head);
  } catch (const std::exception&) {
    Close();
  }
}

std::string Connection::Head(const HttpAnswer& answer, const std::string& length) {
  if (server_.draining) keep_alive_ = false;
  done_.status = answer.status;
  std::string head = absl::StrCat("HTTP/1.1 ", answer.status, " ", ReasonOf(answer.status), "\r\n", length,
                                  "Connection: ", keep_alive_ ? "keep-alive" : "close", "\r\n");
  if (!answer.content_type.empty()) absl::StrAppend(&head, "Content-Type: ", answer.content_type, "\r\n");
  absl::StrAppend(&head, "X-Request-Id: ", record_->ids.request, "\r\n");
  if (!record_->ids.traceparent.empty())
    absl::StrAppend(&head, "traceparent: ", record_->ids.traceparent, "\r\n");
  for (const auto& [name, value] : answer.headers) absl::StrAppend(&head, name, ": ", value, "\r\n");
  absl::StrAppend(&head, "\r\n");
  return head;
}

void Connection::Answer(const HttpAnswer& answer) {
  // Nothing has no length either, and a 304's would be that of what it does not send.
  const bool bodiless = answer.status == 204 || answer.status == 304;
  const std::string head =
      Head(answer, bodiless ? std::string() : absl::StrCat("Content-Length: ", answer.body.size(), "\r\n"));
  out_.reserve(out_.size() + head.size() + answer.body.size());  // all of it or nothing
  begun_ = true;
  Send(head);
  if (!head_only_ && !bodiless) Send(answer.body);
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
  const std::string size = absl::StrCat(absl::Hex(piece.size()), "\r\n");
  out_.reserve(out_.size() + size.size() + piece.size() + 2);  // all of a chunk or nothing
  Send(size);
  Send(piece);
  Send("\r\n");
}

void Connection::End() {
  if (!old_) Send("0\r\n\r\n");
  Over();
}

// The answer is complete; the rest when it has been sent. Until then the call is kept: what bounds how many
// there are bounds the answers that nobody has read.
void Connection::Over() {
  over_ = true;
  Enter(Phase::kEnding);
  waiting_.cancel();
  // Whoever answers may be within the call.
  asio::post(*server_.io, [self = shared_from_this()] {
    if (self->phase_ != Phase::kEnding) return;
    self->exchange_ = nullptr;
    self->Hold(0);
    if (!self->sending()) self->Try([&] { self->OnSent(); });
  });
}

void Connection::Send(std::string_view bytes) {
  if (phase_ == Phase::kClosed) return;
  out_.append(bytes.data(), bytes.size());
  FlushSoon();
}

// What is written in one go leaves in one packet.
void Connection::FlushSoon() {
  if (!writing_) {
    writing_ = true;
    asio::post(*server_.io, [self = shared_from_this()] { self->Try([&] { self->Flush(); }); });
  }
}

void Connection::Flush() {
  if (phase_ == Phase::kClosed) return;
  if (sent_ == sending_.size()) {
    sending_.clear();
    sent_ = 0;
    if (tls_ == nullptr) {
      sending_.swap(out_);
    } else {
      sending_.swap(sealed_);
      if (!tls_->Send(out_, sending_)) return Close();
      out_ = {};
    }
  }
  writing_timer_.expires_after(server_.options.write_time);
  writing_timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (!error && self->writing_timer_.expiry() <= Clock::now()) self->Close();
  });
  socket_.async_write_some(asio::buffer(sending_.data() + sent_, sending_.size() - sent_),
                           [self = shared_from_this()](const error_code& error, size_t bytes) {
                             self->Try([&] { self->OnWritten(error, bytes); });
                           });
}

void Connection::OnWritten(const error_code& error, size_t bytes) {
  if (phase_ == Phase::kClosed) return;
  if (error) return Close();
  sent_ += bytes;
  if (sent_ < sending_.size() || !out_.empty() || !sealed_.empty()) return Flush();
  writing_ = false;
  sending_ = {};
  sent_ = 0;
  writing_timer_.cancel();
  OnSent();
}

void Connection::OnSent() {
  if (phase_ == Phase::kHandling && call_ != nullptr) call_->OnSent();
  if (phase_ == Phase::kEnding && exchange_ == nullptr && !sending()) Next();
}

void Connection::Next() {
  call_ = nullptr;
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
  if (tls_ != nullptr) {
    std::string end;
    tls_->End(end);
    socket_.write_some(asio::buffer(end), ignored);  // all else has been taken: there is room
  }
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
  const bool under_way = phase_ == Phase::kHandling || phase_ == Phase::kEnding;
  Enter(Phase::kClosed);
  try {
    if (under_way) Done(true);
  } catch (const std::exception&) {  // it is not counted
  }
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

void Connections::Remove(const std::shared_ptr<Connection>& connection) {
  all.erase(connection);
  count = static_cast<int64_t>(all.size());
}

void Connections::CountBusy(int change) {
  std::lock_guard lock(busy_mutex);
  busy += change;
  if (busy == 0) changed.notify_all();
}

}  // namespace http_internal
}  // namespace omni
