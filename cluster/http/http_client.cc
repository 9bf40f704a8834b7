#include "cluster/http/http_client.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>

#include "cluster/host_port.h"
#include "cluster/loopback.h"
#include "engine/base/quoted.h"

namespace omni {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using TlsStream = asio::ssl::stream<tcp::socket&>;

constexpr std::chrono::milliseconds kAsk{100};  // between two looks at KeepGoing
constexpr uint32_t kMostHead = 64 << 10;
constexpr int kMostInterim = 16;  // heads of 1xx before an answer's own

// A look-up under way.
struct LookUp {
  std::mutex mutex;
  std::condition_variable changed;
  std::optional<absl::StatusOr<std::vector<std::string>>> found;
};

std::shared_ptr<LookUp> StartLookUp(const FindHost& find, const std::string& host) {
  auto look_up = std::make_shared<LookUp>();
  try {
    std::thread([look_up, find = find == nullptr ? FindHost(FindHostBySystem) : find, host] {
      absl::StatusOr<std::vector<std::string>> found = find(host);
      const std::lock_guard lock(look_up->mutex);
      look_up->found = std::move(found);
      look_up->changed.notify_all();
    }).detach();
  } catch (const std::system_error& e) {
    look_up->found = absl::ResourceExhaustedError(e.what());
  }
  return look_up;
}

bool IsIpAddress(const std::string& host) {
  error_code error;
  asio::ip::make_address(host, error);
  return !error;
}

}  // namespace

// The system's own look-up waits for as long as it likes, and is not to be interrupted.
absl::StatusOr<std::vector<std::string>> FindHostBySystem(const std::string& host) {
  asio::io_context io{1};
  tcp::resolver resolver(io);
  error_code error;
  const tcp::resolver::results_type found = resolver.resolve(host, "", error);
  if (error) return absl::UnavailableError(error.message());
  std::vector<std::string> addresses;
  for (const auto& entry : found) {
    const std::string address = entry.endpoint().address().to_string();
    if (addresses.empty() || addresses.back() != address) addresses.push_back(address);
  }
  return addresses;
}

std::string HttpUrl::HostHeader() const {
  const std::string name = host.find(':') == host.npos ? host : absl::StrCat("[", host, "]");
  return port == (tls ? "443" : "80") ? name : absl::StrCat(name, ":", port);
}

absl::StatusOr<HttpUrl> ParseHttpUrl(std::string_view text) {
  constexpr std::string_view kSchemes[] = {"http://", "https://"};
  HttpUrl url;
  std::string_view rest = text;
  const auto scheme = std::find_if(std::begin(kSchemes), std::end(kSchemes), [&](std::string_view s) {
    return absl::EqualsIgnoreCase(std::string(rest.substr(0, s.size())), std::string(s));
  });
  // Wherever an '@' stands, what is before it may be a password: such a text is in no message.
  const bool secret = text.find('@') != text.npos;
  const size_t authority = scheme == std::end(kSchemes) ? 0 : scheme->size();
  if (secret && text.substr(authority, text.find('/', authority) - authority).find('@') != text.npos)
    return absl::InvalidArgumentError("a URL with a name or password in it is not taken; give a key");
  const auto bad = [&](const char* why) {
    return absl::InvalidArgumentError(
        absl::StrCat(secret ? "the server's URL" : Quoted(std::string(text)), " ", why));
  };
  if (scheme == std::end(kSchemes)) return bad("is no URL of a server, as http://127.0.0.1:8080");
  url.tls = scheme->size() == kSchemes[1].size();
  rest.remove_prefix(scheme->size());
  if (rest.find_first_of("?#") != rest.npos) return bad("has a query or a fragment; leave it out");
  const bool printable = std::all_of(rest.begin(), rest.end(), [](char c) { return c > ' ' && c < 0x7f; });
  if (!printable) return bad("has characters that no URL may have");
  const size_t slash = rest.find('/');
  const HostPort parts = SplitHostPort(std::string(rest.substr(0, slash)));
  url.host = parts.host;
  url.port = parts.port.empty() ? (url.tls ? "443" : "80") : parts.port;
  const bool named =
      !url.host.empty() && url.host.find_first_of("@[]\"<>\\^`{|}") == url.host.npos &&
      (url.host.find(':') == url.host.npos || (rest.starts_with('[') && IsIpAddress(url.host)));
  if (!named) return bad("names no host");
  int port = 0;
  if (!absl::SimpleAtoi(url.port, &port) || port < 1 || port > 65535) return bad("has a port that is none");
  if (slash != rest.npos) url.path = rest.substr(slash);
  while (url.path.ends_with('/')) url.path.pop_back();
  return url;
}

struct HttpClient::Impl {
  HttpClientOptions options;
  HttpUrl url;
  std::string name;
  std::unique_ptr<asio::ssl::context> tls;
};

namespace {

// A request on a connection of its own.
class Exchange {
 public:
  Exchange(const HttpClientOptions& options, const HttpUrl& url, const std::string& name,
           asio::ssl::context* tls, const HttpClient::KeepGoing& keep_going)
      : options_(options), url_(url), name_(name), tls_context_(tls), keep_going_(keep_going) {}

  absl::StatusOr<HttpClient::Answer> Run(const http::request<http::string_body>& request,
                                         const HttpClient::OnPiece& on_piece) {
    if (absl::Status s = Connect(); !s.ok()) return s;
    return tls_.has_value() ? Ask(*tls_, request, on_piece) : Ask(socket_, request, on_piece);
  }

 private:
  enum class Wait { kDone, kTooLate, kNotWanted };

  // Starts an operation and waits until it is over; it is cut off at `until`, or when nobody wants it any
  // more.
  template <typename Start>
  Wait Await(Clock::time_point until, error_code& error, const Start& start) {
    bool done = false;
    start([&](const error_code& e) {
      error = e;
      done = true;
    });
    Wait wait = Wait::kDone;
    while (!done) {
      io_.restart();
      io_.run_for(kAsk);
      if (done || wait != Wait::kDone) continue;
      if (keep_going_ && !keep_going_()) wait = Wait::kNotWanted;
      if (wait == Wait::kDone && Clock::now() >= until) wait = Wait::kTooLate;
      if (wait == Wait::kDone) continue;
      error_code ignored;
      socket_.close(ignored);
    }
    return wait;
  }

  absl::Status Failed(Wait wait, const error_code& error, const std::string& what) const {
    if (wait == Wait::kNotWanted) return absl::CancelledError("interrupted");
    if (wait == Wait::kTooLate)
      return absl::DeadlineExceededError(absl::StrCat(name_, ": ", what, " in time"));
    return absl::UnavailableError(absl::StrCat(name_, ": ", what, ": ", error.message()));
  }

  absl::StatusOr<std::vector<tcp::endpoint>> Find(Clock::time_point until);
  absl::Status Connect();
  absl::Status TlsFailed(Wait wait, const error_code& error);
  template <typename Stream>
  absl::StatusOr<HttpClient::Answer> Ask(Stream& stream, const http::request<http::string_body>& request,
                                         const HttpClient::OnPiece& on_piece);
  template <typename Stream>
  absl::Status ReadHead(Stream& stream);
  template <typename Stream>
  absl::Status ReadBody(Stream& stream, HttpClient::Answer& answer, const HttpClient::OnPiece& on_piece);
  Clock::time_point Silence() const { return Clock::now() + options_.silence; }

  const HttpClientOptions& options_;
  const HttpUrl& url_;
  const std::string& name_;
  asio::ssl::context* const tls_context_;
  const HttpClient::KeepGoing& keep_going_;
  asio::io_context io_{1};
  tcp::socket socket_{io_};
  std::optional<TlsStream> tls_;
  boost::beast::flat_buffer buffer_{kMostHead};
  std::optional<http::response_parser<http::buffer_body>> parser_;
};

absl::StatusOr<std::vector<tcp::endpoint>> Exchange::Find(Clock::time_point until) {
  const std::string what = absl::StrCat("the host '", url_.host, "' is not found");
  absl::StatusOr<std::vector<std::string>> addresses = std::vector<std::string>{url_.host};
  if (!IsIpAddress(url_.host)) {
    const std::shared_ptr<LookUp> look_up = StartLookUp(options_.find_host, url_.host);
    std::unique_lock lock(look_up->mutex);
    while (!look_up->changed.wait_for(lock, kAsk, [&] { return look_up->found.has_value(); })) {
      lock.unlock();
      if (keep_going_ && !keep_going_()) return Failed(Wait::kNotWanted, {}, what);
      if (Clock::now() >= until) return Failed(Wait::kTooLate, {}, what);
      lock.lock();
    }
    addresses = *std::move(look_up->found);
  }
  int port = 0;
  (void)absl::SimpleAtoi(url_.port, &port);  // ParseHttpUrl has seen to it
  std::vector<tcp::endpoint> found;
  for (size_t i = 0; addresses.ok() && i < addresses->size(); ++i) {
    error_code error;
    const auto address = asio::ip::make_address((*addresses)[i], error);
    if (!error) found.emplace_back(address, static_cast<uint16_t>(port));
  }
  if (!found.empty()) return found;
  return absl::UnavailableError(absl::StrCat(name_, ": ", what, addresses.ok() ? "" : ": ",
                                             addresses.ok() ? "" : addresses.status().message()));
}

absl::Status Exchange::Connect() {
  const Clock::time_point until = Clock::now() + options_.connect_time;
  error_code error;
  const absl::StatusOr<std::vector<tcp::endpoint>> found = Find(until);
  if (!found.ok()) return found.status();
  Wait wait = Await(until, error, [&](const auto& done) {
    asio::async_connect(socket_, *found, [done](const error_code& e, const auto&) { done(e); });
  });
  if (error || wait != Wait::kDone) {
    return Failed(wait, error,
                  absl::StrCat("nobody answers at ", url_.HostHeader(), " (is a server running there?)"));
  }
  socket_.set_option(tcp::no_delay(true), error);
  if (!url_.tls) return absl::OkStatus();
  tls_.emplace(socket_, *tls_context_);
  SSL* const ssl = tls_->native_handle();
  if (IsIpAddress(url_.host)) {
    X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), url_.host.c_str());
  } else {
    SSL_set1_host(ssl, url_.host.c_str());
    SSL_set_tlsext_host_name(ssl, url_.host.c_str());
  }
  wait = Await(until, error, [&](const auto& done) {
    tls_->async_handshake(asio::ssl::stream_base::client, [done](const error_code& e) { done(e); });
  });
  return error || wait != Wait::kDone ? TlsFailed(wait, error) : absl::OkStatus();
}

absl::Status Exchange::TlsFailed(Wait wait, const error_code& error) {
  if (wait != Wait::kDone) return Failed(wait, error, "the server did not greet by TLS");
  const auto failed = [&](const std::string& why) {
    return absl::FailedPreconditionError(absl::StrCat(name_, ": ", why));
  };
  if (const long result = SSL_get_verify_result(tls_->native_handle()); result != X509_V_OK) {
    const std::string cure =
        result == X509_V_ERR_HOSTNAME_MISMATCH || result == X509_V_ERR_IP_ADDRESS_MISMATCH
            ? absl::StrCat("it is not for '", url_.host, "'; use the name that it is for")
            : absl::StrCat(X509_verify_cert_error_string(result),
                           "; if its authority is a private one, give its certificate by --ca");
    return failed(absl::StrCat("the server's certificate is not believed: ", cure));
  }
  const int reason = ERR_GET_REASON(static_cast<unsigned long>(error.value()));
  if (error.category() == asio::error::get_ssl_category() &&
      (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST))
    return failed("the server speaks no TLS; is it http:// there?");
  return failed(absl::StrCat("TLS did not come about: ", error.message()));
}

template <typename Stream>
absl::StatusOr<HttpClient::Answer> Exchange::Ask(Stream& stream,
                                                 const http::request<http::string_body>& request,
                                                 const HttpClient::OnPiece& on_piece) {
  error_code error;
  const Wait wait = Await(Silence(), error, [&](const auto& done) {
    http::async_write(stream, request, [done](const error_code& e, size_t) { done(e); });
  });
  const absl::Status written =
      error || wait != Wait::kDone ? Failed(wait, error, "the request cannot be sent") : absl::OkStatus();
  if (wait != Wait::kDone) return written;
  // Whoever refuses a request may answer and close before all of it was sent.
  if (absl::Status s = ReadHead(stream); !s.ok()) return written.ok() ? s : written;
  const auto& head = parser_->get();
  HttpClient::Answer answer;
  answer.status = static_cast<int>(head.result_int());
  answer.content_type = std::string(head[http::field::content_type]);
  answer.request_id = std::string(head["X-Request-Id"]);
  answer.retry_after = std::string(head[http::field::retry_after]);
  const bool stream_of_events =
      answer.status / 100 == 2 && absl::StartsWithIgnoreCase(answer.content_type, "text/event-stream");
  if (absl::Status s = ReadBody(stream, answer, stream_of_events ? on_piece : nullptr); !s.ok()) return s;
  return answer;
}

template <typename Stream>
absl::Status Exchange::ReadHead(Stream& stream) {
  for (int interim = 0; interim < kMostInterim; ++interim) {
    parser_.emplace();
    parser_->header_limit(kMostHead);
    parser_->body_limit(UINT64_MAX);  // ReadBody counts
    error_code error;
    const Wait wait = Await(Silence(), error, [&](const auto& done) {
      http::async_read_header(stream, buffer_, *parser_, [done](const error_code& e, size_t) { done(e); });
    });
    if (wait == Wait::kDone && error == http::error::end_of_stream)
      return absl::UnavailableError(
          absl::StrCat(name_, ": the server closed the connection without an answer"));
    if (wait == Wait::kDone &&
        error.category() == http::make_error_code(http::error::bad_version).category()) {
      return absl::UnavailableError(absl::StrCat(name_, ": what answers there speaks no HTTP/1.1 (",
                                                 error.message(), ")",
                                                 url_.tls ? "" : "; is it https:// there?"));
    }
    if (error || wait != Wait::kDone) return Failed(wait, error, "the server did not answer");
    if (parser_->get().result_int() / 100 != 1) return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat(name_, ": the server only says that it will answer"));
}

template <typename Stream>
absl::Status Exchange::ReadBody(Stream& stream, HttpClient::Answer& answer,
                                const HttpClient::OnPiece& on_piece) {
  char piece[16 << 10];
  while (!parser_->is_done()) {
    auto& body = parser_->get().body();
    body.data = piece;
    body.size = sizeof piece;
    body.more = true;
    error_code error;
    const Wait wait = Await(Silence(), error, [&](const auto& done) {
      http::async_read_some(stream, buffer_, *parser_, [done](const error_code& e, size_t) { done(e); });
    });
    const std::string_view got(piece, sizeof piece - body.size);
    if (on_piece != nullptr) {
      if (!got.empty() && !on_piece(got)) return absl::OkStatus();
    } else if (answer.body.size() + got.size() > options_.most_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat(name_, ": the answer has more than ", options_.most_bytes, " bytes"));
    } else {
      answer.body += got;
    }
    if (error == http::error::need_buffer) error = {};
    // A body that ends with its connection ends where TLS says so; without that, anybody in between may have
    // cut it.
    if (error == http::error::partial_message || error == asio::error::eof ||
        error == asio::ssl::error::stream_truncated)
      return absl::UnavailableError(absl::StrCat(name_, ": the server ended the connection in mid-answer"));
    if (error || wait != Wait::kDone) return Failed(wait, error, "the answer broke off");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpClient>> HttpClient::Make(HttpClientOptions options) {
  absl::StatusOr<HttpUrl> url = ParseHttpUrl(options.url);
  if (!url.ok()) return url.status();
  const bool printable =
      std::all_of(options.key.begin(), options.key.end(), [](char c) { return c > ' ' && c < 0x7f; });
  if (!printable)
    return absl::InvalidArgumentError(
        "the key has characters that no key has: a space, a line's end or the like");
  if (!options.key.empty() && !url->tls && !IsLoopback(url->host) && !options.allow_plain) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.url,
                     ": the key would go to another machine without encryption; use https://, or "
                     "--allow-plain if the network is to be trusted"));
  }
  auto impl = std::make_unique<Impl>();
  if (url->tls) {
    impl->tls = std::make_unique<asio::ssl::context>(asio::ssl::context::tls_client);
    error_code error;
    SSL_CTX_set_min_proto_version(impl->tls->native_handle(), TLS1_2_VERSION);
    impl->tls->set_verify_mode(asio::ssl::verify_peer, error);
    if (options.ca_file.empty()) {
      impl->tls->set_default_verify_paths(error);
      if (error) return absl::UnavailableError(absl::StrCat("the system's certificates: ", error.message()));
    } else {
      impl->tls->load_verify_file(options.ca_file, error);
      if (error) {
        return absl::NotFoundError(absl::StrCat(
            options.ca_file, ": no certificates can be read from it, as PEM: ", error.message()));
      }
    }
  } else if (!options.ca_file.empty()) {
    return absl::InvalidArgumentError(
        "--ca does nothing with a server at http://; leave it out, or use https://");
  }
  impl->url = *std::move(url);
  impl->name = options.url;
  impl->options = std::move(options);
  return std::unique_ptr<HttpClient>(new HttpClient(std::move(impl)));
}

HttpClient::HttpClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpClient::~HttpClient() = default;
const HttpUrl& HttpClient::url() const { return impl_->url; }
std::string HttpClient::name() const { return impl_->name; }

namespace {

http::request<http::string_body> MakeRequest(const HttpClientOptions& options, const HttpUrl& url,
                                             http::verb verb, const std::string& path) {
  http::request<http::string_body> request(verb, absl::StrCat(url.path, path), 11);
  request.set(http::field::host, url.HostHeader());
  request.set(http::field::user_agent, "omni");
  request.set(http::field::connection, "close");
  if (!options.key.empty()) request.set(http::field::authorization, absl::StrCat("Bearer ", options.key));
  return request;
}

}  // namespace

absl::StatusOr<HttpClient::Answer> HttpClient::Get(const std::string& path, const KeepGoing& keep_going) {
  http::request<http::string_body> request = MakeRequest(impl_->options, impl_->url, http::verb::get, path);
  request.set(http::field::accept, "application/json");
  for (const auto& [name, value] : impl_->options.headers) request.set(name, value);
  return Exchange(impl_->options, impl_->url, impl_->name, impl_->tls.get(), keep_going)
      .Run(request, nullptr);
}

absl::StatusOr<HttpClient::Answer> HttpClient::Post(const std::string& path, const std::string& json,
                                                    const OnPiece& on_piece, const KeepGoing& keep_going) {
  http::request<http::string_body> request = MakeRequest(impl_->options, impl_->url, http::verb::post, path);
  request.set(http::field::content_type, "application/json");
  request.set(http::field::accept, on_piece ? "text/event-stream, application/json" : "application/json");
  for (const auto& [name, value] : impl_->options.headers) request.set(name, value);
  request.body() = json;
  request.prepare_payload();
  return Exchange(impl_->options, impl_->url, impl_->name, impl_->tls.get(), keep_going)
      .Run(request, on_piece);
}

}  // namespace omni
