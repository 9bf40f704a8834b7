// Requests to an HTTP/1.1 server, with or without TLS, and their answers as they come. Nothing of what is
// said is known here.
//
// Each request has a connection of its own, which ends with it: whoever stops listening ends his answer at
// the server. Redirections are not followed, and no proxy is used.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni {

struct HttpUrl {
  bool tls = false;
  std::string host;  // without the brackets of an IPv6 address
  std::string port;
  std::string path;                // as "/v1", without a slash at its end; may be empty
  std::string HostHeader() const;  // the port only where it is not the scheme's own
};
// http://HOST[:PORT][/PATH] or https://. InvalidArgument says what is wrong, and never shows a password.
absl::StatusOr<HttpUrl> ParseHttpUrl(std::string_view text);

// The addresses of a host's name, as "192.0.2.1"; on a thread of its own, which may outlive the client:
// whoever gives a request up does not wait for it.
using FindHost = std::function<absl::StatusOr<std::vector<std::string>>(const std::string& host)>;
absl::StatusOr<std::vector<std::string>> FindHostBySystem(const std::string& host);

struct HttpClientOptions {
  std::string url;
  std::string key;      // sent as a bearer; in no message
  std::string ca_file;  // PEM of the authorities that are believed; empty: the system's
  // A key goes to another machine without TLS only if this says so.
  bool allow_plain = false;
  std::chrono::milliseconds connect_time{10'000};  // to find, connect and greet the server
  std::chrono::milliseconds silence{600'000};      // without a byte of an answer
  size_t most_bytes = size_t{4} << 20;             // of an answer that is taken whole
  FindHost find_host = nullptr;                    // null: the system says; not asked of an address
  // More of every request's head, or in place of what would be there. The values have no line's end.
  std::vector<std::pair<std::string, std::string>> headers = {};
};

// One thread at a time.
class HttpClient {
 public:
  // InvalidArgument: the URL or the key is none. NotFound and the like: ca_file.
  static absl::StatusOr<std::unique_ptr<HttpClient>> Make(HttpClientOptions options);
  ~HttpClient();

  struct Answer {
    int status = 0;
    std::string content_type, request_id, retry_after;  // empty: not said
    std::string body;                                   // but for what went to on_piece
  };
  // Asked some ten times a second whatever happens; false gives the request up (Cancelled).
  using KeepGoing = std::function<bool()>;
  // Pieces of a body as they come; false: no more is wanted, and the answer ends well.
  using OnPiece = std::function<bool(std::string_view)>;

  // `path` is put behind the URL's. Errors name the server: Unavailable, it cannot be found, reached or
  // understood, or went away before the end; FailedPrecondition, TLS did not come about; DeadlineExceeded, it
  // said nothing for too long; ResourceExhausted, it said too much. A status of HTTP is no error here.
  absl::StatusOr<Answer> Get(const std::string& path, const KeepGoing& keep_going);
  // `on_piece`, if not null, gets the body of a 2xx answer that is a stream of events.
  absl::StatusOr<Answer> Post(const std::string& path, const std::string& json, const OnPiece& on_piece,
                              const KeepGoing& keep_going);

  const HttpUrl& url() const;
  std::string name() const;  // of the server, for messages: the URL as it was given

 private:
  struct Impl;
  explicit HttpClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
