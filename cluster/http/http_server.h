// HTTP/1.1 on one thread: connections, their limits, and requests handed to whoever answers them. What the
// paths mean is not known here.
//
// Of a connection one request is answered at a time, and the next is looked at when the answer has been sent:
// requests that come ahead wait in order, and a client that does not read stops its own connection alone. A
// client that has only closed its sending side is answered; one that is gone is noticed at once (it is sent
// something, and its system refuses it), and the call is destroyed.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cluster/request_ids.h"

namespace omni {

class TlsContext;

struct HttpRequest {
  std::string method, path, query;                           // the target, cut at its '?'
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;
  std::shared_ptr<RequestRecord> record;            // what the handler fills in of it; never null
  std::string Header(std::string_view name) const;  // the first of that name; empty: none
};

struct HttpAnswer {
  int status = 200;
  std::string content_type = "application/json";  // empty: there is no body
  // Beside those of type, length, connection and the request's ids.
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
};
// What HttpServer::Listen says of the address alone; what is to be there beside it off loopback is told.
struct HttpSecurity {
  bool tls = false, keys = false;
};
absl::Status CheckHttpAddress(const std::string& listen, HttpSecurity security = {});

struct HttpServerOptions {
  // Port 0: one that is free. Off loopback only with TLS and keys.
  std::string listen = "127.0.0.1:8080";
  bool keys = false;                          // the handler wants keys of whoever asks
  std::shared_ptr<TlsContext> tls = nullptr;  // null: in the clear
  size_t most_connections = 4096;             // beyond them 503; fewer where the limit of open files is lower
  uint32_t head_bytes = 16 << 10;             // beyond it 431
  uint64_t body_bytes = 8 << 20;              // beyond it 413
  size_t all_bodies = 256 << 20;              // bytes of bodies that are here at one time; beyond them 503
  std::chrono::milliseconds idle{75'000};     // between requests
  std::chrono::milliseconds head_time{10'000};  // of headers, from a request's first byte, and of a handshake
  std::chrono::milliseconds body_time{60'000};
  std::chrono::milliseconds write_time{30'000};  // without a byte taken by the client
  std::chrono::milliseconds quiet{15'000};       // HttpCall::OnQuiet
  std::chrono::milliseconds linger{2'000};       // for a refused client to read why
};

// The answer to one request. All but Post on the server's thread; once the client is gone, or the answer is
// over, nothing does anything.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual void Answer(const HttpAnswer& answer) = 0;
  // An answer whose length is not known: its head, any number of pieces, its end.
  virtual void Begin(const HttpAnswer& head) = 0;
  virtual void Write(std::string_view piece) = 0;
  virtual void End() = 0;
  virtual size_t unsent() const = 0;  // bytes that the client has not taken
  // Does it on the server's thread, soon; thread-safe, and nothing once the server is gone.
  virtual void Post(std::function<void()> deed) = 0;
};

// A request being answered; destroyed when the answer has been sent or nobody waits for it. On the server's
// thread.
class HttpCall {
 public:
  virtual ~HttpCall() = default;
  virtual void OnSent() {}   // all that was written has been taken
  virtual void OnQuiet() {}  // nothing was written for a while, or the client may be gone: say something
};

// How an exchange ended.
struct HttpDone {
  std::string method;
  std::string path;
  int status = 0;  // of the answer's head; 0: the client was gone before it
  bool gone = false;
  std::chrono::nanoseconds took{0};
  std::shared_ptr<const RequestRecord> record;  // never null
};

// On the server's thread; does not wait.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // Of a request whose body is still to come: an answer ends it there, unread, and with it the connection.
  virtual std::optional<HttpAnswer> OnHead(const HttpRequest&) { return std::nullopt; }
  // Null: it has been answered.
  virtual std::shared_ptr<HttpCall> OnRequest(HttpRequest request,
                                              std::shared_ptr<HttpExchange> exchange) = 0;
  // What a request is told that never was one.
  virtual HttpAnswer OnRefused(int status, const std::string& why) = 0;
  virtual void OnDone(const HttpDone& done) = 0;
};

class HttpServer {
 public:
  // Clients can connect, and are answered once Run has been called. InvalidArgument: not a loopback address.
  // Unavailable: it cannot be listened on. `handler` outlives it.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Listen(HttpServerOptions options, HttpHandler& handler);
  ~HttpServer();  // cuts what is under way
  void Run();     // starts the server's thread; once

  const std::string& address() const;  // with the port that was found
  // From now on every connection ends with its present answer. Returns when none is under way, or after
  // `most`: whether all were finished.
  bool Drain(std::chrono::milliseconds most);
  int64_t connections() const;  // thread-safe

  struct Impl;

 private:
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
