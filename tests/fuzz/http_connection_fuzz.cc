// Whatever a client sends, in whatever pieces, and however it ends: each connection's answers are HTTP, the
// connection ends when it should, and nothing of it is left. The product's own connections, on one end of a
// pair of sockets.
#include "cluster/http/http_connection.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>

#include "cluster/http/openai_answer.h"
#include "cluster/http/openai_request.h"
#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 4000;

namespace {

using http_internal::Connection;
using http_internal::Connections;

// Reads a POST as a completion or a chat; streams from /stream; says what it was told of all else.
class Handler final : public HttpHandler {
 public:
  class Streaming final : public HttpCall {
   public:
    explicit Streaming(std::shared_ptr<HttpExchange> exchange) : exchange_(std::move(exchange)) {}
    void OnSent() override {
      if (left_-- > 0) return exchange_->Write("data: x\n\n");
      exchange_->End();
    }
    void OnQuiet() override { exchange_->Write(": quiet\n\n"); }

   private:
    const std::shared_ptr<HttpExchange> exchange_;
    int left_ = 3;
  };

  std::shared_ptr<HttpCall> OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    Require(request.record != nullptr && !request.record->ids.request.empty(), "a request has a name");
    Require(request.record->ids.request.size() <= kMostRequestId, "a name is not longer than it may be");
    ++requests;
    if (request.path == "/stream") {
      exchange->Begin({});
      auto call = std::make_shared<Streaming>(exchange);
      exchange->Write("begun");
      return call;
    }
    HttpAnswer answer;
    if (request.method == "POST") {
      const auto read = request.path == "/v1/chat/completions" ? ReadChat(request.body, model, 1)
                                                               : ReadCompletion(request.body, model, 1);
      if (!read.ok()) {
        RequireReadable(read.status());
        answer = ErrorAnswer(read.status());
      }
    } else {
      answer.body = request.path + request.query + request.Header("x-a");
    }
    exchange->Answer(answer);
    return nullptr;
  }
  HttpAnswer OnRefused(int status, const std::string& why) override {
    ++refused;
    return ErrorAnswer(status, why);
  }
  void OnDone(const HttpDone& done) override {
    Require(done.record != nullptr, "what is over has a record");
    ++over;
  }

  ServedModel model;
  int requests = 0, refused = 0, over = 0;
};

std::string Request(const std::string& line, const std::string& headers, const std::string& body = "") {
  return line + " HTTP/1.1\r\nHost: localhost\r\n" + headers + "\r\n" + body;
}

// The first byte says in what pieces it comes, the second how it ends.
std::string Case(char pieces, char end, const std::string& bytes) { return std::string{pieces, end} + bytes; }

void ReadAll(int fd, std::string* got) {
  char buffer[65536];
  for (ssize_t n; (n = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT)) > 0;)
    got->append(buffer, static_cast<size_t>(n));
}

// Heads of answers, bodies aside: each is a whole one of a known status, and names its request.
void CheckAnswers(std::string_view got, const Handler& handler) {
  if (got.empty()) return;
  Require(got.starts_with("HTTP/1.1 "), "what is said is HTTP");
  const size_t head_end = got.find("\r\n\r\n");
  Require(head_end != got.npos, "a head is sent whole");
  const std::string_view head = got.substr(0, head_end);
  const int status = std::atoi(std::string(head.substr(9, 3)).c_str());
  Require(status >= 100 && status < 600 && head.find("<unknown") == head.npos, "the status is one of HTTP's");
  Require(status / 100 == 1 || head.find("\r\nX-Request-Id: ") != head.npos, "an answer names its request");
  Require(handler.requests + handler.refused > 0 || status / 100 == 1,
          "nobody is answered who has not asked");
}

}  // namespace

std::vector<std::string> Seeds() {
  const std::string body = R"({"prompt":"the sea","max_tokens":5,"temperature":0.5,"stop":["a"],"seed":-7})";
  const std::string chat = R"({"messages":[{"role":"user","content":"u"}],"stream":true})";
  const std::string length = "Content-Type: application/json\r\nContent-Length: ";
  return {
      Case(0, 0, Request("GET /a?b=c", "X-A: d\r\nX-Request-Id: e\r\n") + Request("HEAD /x", "")),
      Case(1, 1, Request("POST /v1/completions", length + std::to_string(body.size()) + "\r\n", body)),
      Case(7, 2,
           Request("POST /v1/chat/completions", length + std::to_string(chat.size()) + "\r\n", chat) +
               Request("GET /stream", "") + Request("GET /after", "Connection: close\r\n")),
      Case(3, 0,
           Request("POST /v1/completions", "Transfer-Encoding: chunked\r\n",
                   "5;x=y\r\n{\"a\":\r\n2\r\n1}\r\n0\r\nTrailer: t\r\n\r\n")),
      Case(0, 1, Request("POST /", "Expect: 100-continue\r\nContent-Length: 8000000\r\n", "ab")),
      Case(9, 2, "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
      Case(2, 0,
           Request("GET /",
                   "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
                   "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n")),
      Case(0, 0, Request("OPTIONS *", "Origin: http://evil\r\nContent-Length: 0\r\nContent-Length: 1\r\n")),
      Case(0, 1, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
  };
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  static const Tokenizer tokenizer = *Tokenizer::Train("the sea and the ship and the sea", 260);
  Input input(data, size);
  const size_t piece = 1 + input.Byte() * size_t{5};
  const int end = input.Byte() % 3;
  Handler handler;
  handler.model.name.assign(1, 'm');
  handler.model.max_context = 200;
  handler.model.tokenizer = &tokenizer;
  HttpServerOptions options;
  options.head_bytes = 2000;
  options.body_bytes = 8 << 20;
  Connections server(options, handler);
  int ends[2];
  Require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "there are sockets");
  http_internal::tcp::socket socket(*server.io);
  socket.assign(http_internal::tcp::v4(), ends[0]);
  socket.non_blocking(true);
  auto connection = std::make_shared<Connection>(server, std::move(socket), nullptr);
  server.all.insert(connection);
  connection->Start();
  const auto run = [&] {
    while (server.io->poll() > 0) {
    }
    server.io->restart();
  };
  std::string got;
  int full = 0;
  std::string_view rest = input.rest();
  while (!rest.empty()) {
    const ssize_t sent =
        send(ends[1], rest.data(), std::min(piece, rest.size()), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) rest.remove_prefix(static_cast<size_t>(sent));
    run();
    ReadAll(ends[1], &got);
    if (sent < 0 && (errno != EAGAIN || ++full > 100)) break;  // the server has closed, or reads no more
  }
  if (end == 1) shutdown(ends[1], SHUT_WR);
  if (end == 2) close(ends[1]);
  for (int i = 0; i < 8; ++i) {
    run();
    if (end != 2) ReadAll(ends[1], &got);
  }
  CheckAnswers(got, handler);
  const bool waits = !server.all.empty();  // for more, or until the client has read why it was refused
  if (end == 2) Require(!waits, "nothing is kept of a client that has gone");
  if (waits) connection->Close();
  run();
  if (end != 2) close(ends[1]);
  Require(server.all.empty() && server.held == 0 && server.busy == 0, "nothing of a connection is left");
  Require(handler.over == handler.requests + handler.refused, "each request is told to be over once");
  return 0;
}
