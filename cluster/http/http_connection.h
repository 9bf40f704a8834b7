// One HTTP connection, and what all of a server share. For http_server.cc and http_connection.cc alone: Boost
// is behind them.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>

#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>

#include "cluster/http/http_server.h"
#include "cluster/http/tls.h"

namespace omni::http_internal {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

class Connection;
class Exchange;

// A body as a string, which takes memory for what has come and not for what was announced.
struct GrowingBody {
  using value_type = std::string;
  static uint64_t size(const value_type& body) { return body.size(); }

  class reader {
   public:
    template <bool kIsRequest, typename Fields>
    reader(http::header<kIsRequest, Fields>&, value_type& body) : body_(body) {}
    void init(const boost::optional<uint64_t>&, error_code& error) { error = {}; }
    template <typename Buffers>
    size_t put(const Buffers& buffers, error_code& error) {
      error = {};
      const size_t before = body_.size();
      for (auto it = asio::buffer_sequence_begin(buffers); it != asio::buffer_sequence_end(buffers); ++it) {
        const asio::const_buffer piece(*it);
        body_.append(static_cast<const char*>(piece.data()), piece.size());
      }
      return body_.size() - before;
    }
    void finish(error_code& error) { error = {}; }

   private:
    value_type& body_;
  };
};

// All on the server's thread but where it says otherwise.
struct Connections {
  Connections(HttpServerOptions o, HttpHandler& h) : options(std::move(o)), handler(h) {}

  void Remove(const std::shared_ptr<Connection>& connection);
  void CountBusy(int change);

  HttpServerOptions options;
  HttpHandler& handler;
  // Shared with whoever may post: it may outlive the server, and does nothing then.
  std::shared_ptr<asio::io_context> io = std::make_shared<asio::io_context>(1);
  std::unordered_set<std::shared_ptr<Connection>> all;
  std::array<char, 16 << 10> chunk;  // what one connection reads at a time
  bool draining = false;
  size_t held = 0;                // bytes of bodies
  std::atomic<int64_t> count{0};  // of `all`; any thread

  std::mutex busy_mutex;
  std::condition_variable changed;
  int busy = 0;  // connections with a request or an answer under way; with the mutex
};

// All on the server's thread.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // `tls`: null, what is said is said in the clear.
  Connection(Connections& server, tcp::socket socket, std::unique_ptr<TlsSession> tls)
      : server_(server),
        socket_(std::move(socket)),
        phase_(tls == nullptr ? Phase::kIdle : Phase::kHandshake),
        waiting_(*server.io),
        writing_timer_(*server.io),
        tls_(std::move(tls)) {}

  void Start() {
    Await(tls_ == nullptr ? server_.options.idle : server_.options.head_time);
    Read();
  }
  void CloseIfIdle() {
    if (phase_ == Phase::kHandshake || (phase_ == Phase::kIdle && !sending())) Close();
  }
  void Close();

  // Of the exchange.
  void Answer(const HttpAnswer& answer);
  void Begin(const HttpAnswer& head);
  void Write(std::string_view piece);
  void End();
  size_t unsent() const { return out_.size() + sealed_.size() + sending_.size() - sent_; }
  bool Has(const Exchange* exchange) const { return exchange_.get() == exchange && !over_; }
  void OnFailed(const char* reason);
  // What the handler or memory could not do ends one request, with an error if nothing was said yet.
  template <typename Deed>
  void Try(const Deed& deed) {
    try {
      deed();
    } catch (const std::exception& e) {
      OnFailed(e.what());
    }
  }

 private:
  // kHandshake: of TLS; kIdle: nothing of a request has come; kEnding: the last answer is being sent.
  enum class Phase { kHandshake, kIdle, kHead, kBody, kHandling, kEnding, kLingering, kClosed };

  void Enter(Phase phase) {
    SetBusy(phase != Phase::kHandshake && phase != Phase::kIdle && phase != Phase::kLingering &&
            phase != Phase::kClosed);
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
  bool sending() const { return writing_ || !out_.empty() || !sealed_.empty(); }

  void Await(std::chrono::milliseconds most);
  void OnTooLate();
  void Read();
  void OnReadable(const error_code& error);
  void OnHalfClosed();
  void OnSealed(std::string_view bytes);
  void Parse();
  void Dispatch();
  void Refuse(int status, const std::string& why) { Refuse(server_.handler.OnRefused(status, why)); }
  void Refuse(const HttpAnswer& answer, const HttpRequest& head = {});
  bool RefusedByHead(const HttpRequest& head);
  void RefuseParse(const error_code& error);
  void BeginRequest(const HttpRequest& head);
  std::string Head(const HttpAnswer& answer, const std::string& length);
  void Over();
  void Send(std::string_view bytes);
  void FlushSoon();
  void Flush();
  void OnWritten(const error_code& error, size_t bytes);
  void OnSent();
  void Next();
  void Done(bool gone);

  Connections& server_;
  tcp::socket socket_;
  Phase phase_;
  bool busy_ = false;
  asio::steady_timer waiting_, writing_timer_;

  std::string in_;
  bool reading_ = false, half_closed_ = false, probing_ = false;
  size_t lingered_ = 0, held_ = 0;
  std::optional<http::request_parser<GrowingBody>> parser_;

  bool keep_alive_ = true, old_ = false, head_only_ = false;  // of the request; old_: HTTP/1.0
  std::shared_ptr<Exchange> exchange_;
  std::shared_ptr<HttpCall> call_;
  bool begun_ = false, over_ = false;  // of the answer; begun: its head is said
  HttpDone done_;
  std::shared_ptr<RequestRecord> record_;
  Clock::time_point started_;

  std::unique_ptr<TlsSession> tls_;
  // To be sent: of answers, of TLS itself, and what the socket is being given, sealed if there is TLS.
  std::string out_, sealed_, sending_;
  size_t sent_ = 0;  // of sending_
  bool writing_ = false;
};

}  // namespace omni::http_internal
