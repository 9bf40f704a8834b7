// The server against clients of every kind, over loopback, with a handler that does what the path says.
#include "cluster/http/http_server.h"

#include <condition_variable>
#include <future>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cluster/http/raw_client.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using testing::Get;
using ::testing::HasSubstr;
using testing::Post;
using testing::RawAnswer;
using testing::RawClient;

// Counts what happens, for tests that wait for it.
class Events {
 public:
  void Add(const std::string& name) {
    std::lock_guard lock(mutex_);
    ++counts_[name];
    changed_.notify_all();
  }
  bool WaitFor(const std::string& name, int count = 1) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::minutes(1), [&] { return counts_[name] >= count; });
  }
  int Count(const std::string& name) {
    std::lock_guard lock(mutex_);
    return counts_[name];
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, int> counts_;
};

// /echo answers with method and body, /wait and /stream when the test says so, /large too and with more than
// sockets hold, /flood with more than anyone reads; a stream says a word when it is quiet.
class FakeHandler : public HttpHandler {
 public:
  class Call : public HttpCall {
   public:
    Call(Events& events, std::shared_ptr<HttpExchange> exchange, bool stream, bool flood)
        : events_(events), exchange_(std::move(exchange)), stream_(stream), flood_(flood) {}
    ~Call() override { events_.Add("destroyed"); }
    void OnQuiet() override {
      events_.Add("quiet");
      if (stream_) exchange_->Write(": quiet\n\n");
    }
    void OnSent() override {
      events_.Add("sent");
      if (flood_) exchange_->Write(std::string(64 << 10, 'x'));
    }

   private:
    Events& events_;
    std::shared_ptr<HttpExchange> exchange_;
    const bool stream_, flood_;
  };

  std::shared_ptr<HttpCall> OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    if (request.path == "/throw") throw std::bad_alloc();
    if (request.path == "/throw_later" || request.path == "/throw_late") {
      if (request.path == "/throw_late") {
        exchange->Begin({});
        exchange->Write("begun");
      }
      exchange->Post([] { throw std::bad_alloc(); });
      return std::make_shared<Call>(events, exchange, false, false);
    }
    if (request.path == "/wait" || request.path == "/large" || request.path == "/stream" ||
        request.path == "/flood") {
      const bool wait = request.path == "/wait" || request.path == "/large";
      auto call = std::make_shared<Call>(events, exchange, !wait, request.path == "/flood");
      if (!wait) {
        exchange->Begin({});
        exchange->Write("begun");
      }
      std::lock_guard lock(mutex);
      released = request.path == "/large" ? std::string(kLarge, 'x') : "released";
      waiting.push_back(exchange);
      events.Add("waiting");
      return call;
    }
    HttpAnswer answer;
    answer.body = request.method + " " + request.path + "?" + request.query + " " + request.Header("x-a") +
                  " " + request.body;
    exchange->Answer(answer);
    return nullptr;
  }
  HttpAnswer OnRefused(int status, const std::string& why) override {
    HttpAnswer answer;
    answer.status = status;
    answer.body = why;
    return answer;
  }
  void OnDone(const HttpDone& done) override { events.Add(done.gone ? "gone" : "done"); }

  // Ends what waits.
  void Release() {
    std::lock_guard lock(mutex);
    for (const auto& exchange : waiting) {
      exchange->Post([exchange, body = released] {
        HttpAnswer answer;
        answer.body = body;
        exchange->Answer(answer);
      });
    }
    waiting.clear();
  }

  static constexpr size_t kLarge = 32 << 20;
  Events events;
  std::mutex mutex;
  std::string released;  // what whoever waits is answered; with the mutex
  std::vector<std::shared_ptr<HttpExchange>> waiting;
};

class HttpServerTest : public ::testing::Test {
 protected:
  void Start(HttpServerOptions options = {}) {
    options.listen = "127.0.0.1:0";
    auto server = HttpServer::Listen(options, handler_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->Run();
  }
  const std::string& address() const { return server_->address(); }
  void ExpectServing() {
    RawClient client(address());
    client.Send(Get("/echo"));
    const auto answer = client.Read();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->status, 200);
  }
  // What somebody is told whose request is refused; the connection must end with it.
  int Refused(const std::string& request) {
    RawClient client(address());
    client.Send(request);
    const auto answer = client.Read();
    if (!answer.has_value()) return 0;
    EXPECT_EQ(answer->headers.at("Connection"), "close");
    EXPECT_EQ(client.ReadToEnd(), "");
    return answer->status;
  }

  FakeHandler handler_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, ListensOnLoopbackAlone) {
  for (const char* address : {"0.0.0.0:0", "[::]:0", "192.0.2.1:80"}) {
    const auto server = HttpServer::Listen({.listen = address}, handler_);
    ASSERT_TRUE(absl::IsInvalidArgument(server.status())) << server.status();
    EXPECT_THAT(std::string(server.status().message()), HasSubstr("off loopback"));
  }
  for (const char* address :
       {"127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:-1", "kitchen:80", ":80", ""})
    EXPECT_TRUE(absl::IsInvalidArgument(HttpServer::Listen({.listen = address}, handler_).status()))
        << address;
  EXPECT_TRUE(HttpServer::Listen({.listen = "localhost:0"}, handler_).ok());
}

TEST_F(HttpServerTest, APortInUseIsSaid) {
  Start();
  const auto other = HttpServer::Listen({.listen = address()}, handler_);
  ASSERT_TRUE(absl::IsUnavailable(other.status())) << other.status();
  EXPECT_THAT(std::string(other.status().message()), AllOf(HasSubstr(address()), HasSubstr("in use")));
}

TEST_F(HttpServerTest, AConnectionServesOneRequestAfterAnother) {
  Start();
  RawClient client(address());
  for (int i = 0; i < 3; ++i) {
    client.Send(Post("/echo?q=1", "body " + std::to_string(i), "X-A: b\r\n"));
    const auto answer = client.Read();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->body, "POST /echo?q=1 b body " + std::to_string(i));
    EXPECT_EQ(answer->headers.at("Connection"), "keep-alive");
  }
}

TEST_F(HttpServerTest, ARequestMayComeByteByByte) {
  Start();
  RawClient client(address());
  for (const char c : Post("/echo", "slow") + Get("/echo?2")) client.Send({&c, 1});
  EXPECT_EQ(client.Read()->body, "POST /echo?  slow");
  EXPECT_EQ(client.Read()->body, "GET /echo?2  ");
}

TEST_F(HttpServerTest, ABodyMayComeInChunks) {
  Start();
  RawClient client(address());
  client.Send(
      "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "
      "chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n");
  EXPECT_EQ(client.Read()->body, "POST /echo?  abcdefg");
}

TEST_F(HttpServerTest, RequestsThatComeAheadAreAnsweredInOrder) {
  Start();
  RawClient client(address());
  std::string all = Get("/wait");
  for (int i = 0; i < 2000; ++i) all += Get("/echo?" + std::to_string(i));
  std::thread sender([&] { client.Send(all); });
  ASSERT_TRUE(handler_.events.WaitFor("waiting"));
  EXPECT_EQ(handler_.events.Count("done"), 0);
  handler_.Release();
  EXPECT_EQ(client.Read()->body, "released");
  for (int i = 0; i < 2000; ++i) {
    const auto answer = client.Read();
    ASSERT_TRUE(answer.has_value()) << i;
    EXPECT_EQ(answer->body, "GET /echo?" + std::to_string(i) + "  ");
  }
  sender.join();
}

TEST_F(HttpServerTest, HeadHasNoBody) {
  Start();
  RawClient client(address());
  client.Send("HEAD /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(client.ReadToEnd(), AllOf(HasSubstr("Content-Length: 13"), ::testing::EndsWith("\r\n\r\n")));
}

TEST_F(HttpServerTest, WhoeverAsksToContinueIsToldTo) {
  Start();
  RawClient client(address());
  client.Send("POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_EQ(client.Read()->status, 100);
  client.Send("ok");
  EXPECT_EQ(client.Read()->body, "POST /echo?  ok");
}

TEST_F(HttpServerTest, WhatIsTooLargeIsRefused) {
  HttpServerOptions options;
  options.head_bytes = 1000;
  options.body_bytes = 2000;
  Start(options);
  EXPECT_EQ(Refused(Get("/echo", "X: " + std::string(2000, 'x') + "\r\n")), 431);
  EXPECT_EQ(Refused("GET /" + std::string(5000, 'x')), 431);
  EXPECT_EQ(Refused(Post("/echo", std::string(2001, 'x'))), 413);
  EXPECT_EQ(Refused("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n"), 413);
  EXPECT_EQ(Refused("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFF\r\n" +
                    std::string(3000, 'x')),
            413);
  RawClient fits(address());
  fits.Send(Post("/echo", std::string(2000, 'x')));
  EXPECT_EQ(fits.Read()->status, 200);
}

TEST_F(HttpServerTest, AClientThatSendsFarTooMuchReadsWhyAllTheSame) {
  HttpServerOptions options;
  options.body_bytes = 1000;
  Start(options);
  RawClient client(address());
  client.Send(Post("/echo", std::string(4 << 20, 'x')));
  EXPECT_EQ(client.Read()->status, 413);
}

TEST_F(HttpServerTest, BodiesOfAllTogetherAreBounded) {
  HttpServerOptions options;
  options.body_bytes = 1 << 20;
  options.all_bodies = 3 << 19;
  Start(options);
  RawClient first(address());
  first.Send(Post("/wait", std::string(1 << 20, 'x')));
  ASSERT_TRUE(handler_.events.WaitFor("waiting"));
  EXPECT_EQ(Refused(Post("/echo", std::string(1 << 20, 'x'))), 503);
  handler_.Release();
  EXPECT_EQ(first.Read()->status, 200);
  RawClient again(address());
  again.Send(Post("/echo", std::string(1 << 20, 'x')));
  EXPECT_EQ(again.Read()->status, 200);
}

TEST_F(HttpServerTest, WhatIsNoHttpIsRefused) {
  Start();
  for (const std::string request :
       {"\x16\x03\x01\x02\x01 hello\r\n\r\n", "GET /echo\r\n\r\n", "GET  HTTP/1.1\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", "GET /echo HTTP/1.1\r\n : a\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"}) {
    EXPECT_EQ(Refused(request), 400) << request;
  }
  EXPECT_EQ(Refused("GET /echo HTTP/3.7\r\nHost: a\r\n\r\n"), 505);
  ExpectServing();
}

TEST_F(HttpServerTest, WhoeverStallsInARequestIsToldAndLetGo) {
  HttpServerOptions options;
  options.head_time = options.body_time = milliseconds(50);
  Start(options);
  EXPECT_EQ(Refused("GET /echo HTTP/1.1\r\nHost: a\r\nX-A: "), 408);
  EXPECT_EQ(Refused("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc"), 408);
  ExpectServing();
}

// A byte now and then does not extend a request's time.
TEST_F(HttpServerTest, ASlowLorisEndsWithTheTimeOfItsHeaders) {
  HttpServerOptions options;
  options.head_time = milliseconds(100);
  Start(options);
  RawClient client(address());
  client.Send("GET /echo HTTP/1.1\r\nHost: a\r\nX-A: ");
  std::promise<void> over;
  std::thread dripping([&, stop = over.get_future()] {
    while (stop.wait_for(milliseconds(5)) == std::future_status::timeout && client.Send("a")) {
    }
  });
  const auto answer = client.Read();
  over.set_value();
  dripping.join();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->status, 408);
}

TEST_F(HttpServerTest, AnIdleConnectionIsClosed) {
  HttpServerOptions options;
  options.idle = milliseconds(500);
  Start(options);
  RawClient used(address());
  used.Send(Get("/echo"));
  EXPECT_EQ(used.Read()->status, 200);
  EXPECT_EQ(used.ReadToEnd(), "");
  RawClient silent(address());
  EXPECT_EQ(silent.ReadToEnd(), "");
}

TEST_F(HttpServerTest, AClientThatOnlyClosedItsSendingSideIsAnswered) {
  Start();
  RawClient at_once(address());
  at_once.Send(Get("/echo"));
  at_once.HalfClose();
  EXPECT_EQ(at_once.Read()->status, 200);
  EXPECT_EQ(at_once.ReadToEnd(), "");

  RawClient later(address());
  later.Send(Get("/wait"));
  ASSERT_TRUE(handler_.events.WaitFor("waiting"));
  later.HalfClose();
  EXPECT_EQ(later.Read()->status, 102);  // whether it is there
  handler_.Release();
  EXPECT_EQ(later.Read()->body, "released");
}

TEST_F(HttpServerTest, RequestsBeforeAHalfCloseAreAllAnswered) {
  Start();
  RawClient client(address());
  client.Send(Get("/echo?1") + Get("/wait") + Get("/echo?2"));
  client.HalfClose();
  ASSERT_TRUE(handler_.events.WaitFor("waiting"));
  handler_.Release();
  const std::string all = client.ReadToEnd();
  EXPECT_THAT(all, AllOf(HasSubstr("/echo?1"), HasSubstr("released"), HasSubstr("/echo?2")));
}

TEST_F(HttpServerTest, AClientThatIsGoneEndsItsCall) {
  Start();
  for (const char* path : {"/wait", "/stream"}) {
    SCOPED_TRACE(path);
    const int before = handler_.events.Count("destroyed");
    auto client = std::make_unique<RawClient>(address());
    client->Send(Get(path));
    ASSERT_TRUE(handler_.events.WaitFor("waiting", before + 1));
    if (std::string_view(path) == "/stream") {
      ASSERT_TRUE(client->ReadUntil("begun"));
    }
    client = nullptr;
    EXPECT_TRUE(handler_.events.WaitFor("destroyed", before + 1));
    EXPECT_TRUE(handler_.events.WaitFor("gone", before + 1));
  }
  handler_.Release();  // to nobody
  ExpectServing();
}

TEST_F(HttpServerTest, ACallIsKeptUntilItsAnswerHasBeenSent) {
  Start();
  RawClient client(address());
  client.Send(Get("/large"));
  ASSERT_TRUE(handler_.events.WaitFor("waiting"));
  handler_.Release();
  ASSERT_TRUE(client.ReadUntil("\r\n\r\nx"));
  for (int i = 0; i < 20; ++i) ExpectServing();  // what the server was to do is done
  EXPECT_EQ(handler_.events.Count("destroyed"), 0);
  EXPECT_EQ(client.Read()->body.size(), FakeHandler::kLarge);
  EXPECT_TRUE(handler_.events.WaitFor("destroyed"));
}

TEST_F(HttpServerTest, AQuietStreamSaysThatItIsThere) {
  HttpServerOptions options;
  options.quiet = milliseconds(20);
  Start(options);
  RawClient client(address());
  client.Send(Get("/stream"));
  EXPECT_TRUE(client.ReadUntil(": quiet"));
}

TEST_F(HttpServerTest, AClientThatDoesNotReadIsCutOff) {
  HttpServerOptions options;
  options.write_time = milliseconds(200);
  Start(options);
  RawClient client(address(), /*receive_bytes=*/4096);
  client.Send(Get("/flood"));
  EXPECT_TRUE(handler_.events.WaitFor("gone"));
  EXPECT_TRUE(handler_.events.WaitFor("destroyed"));
  ExpectServing();
}

TEST_F(HttpServerTest, BeforeVersionElevenAStreamEndsWithItsConnection) {
  Start();
  RawClient client(address());
  client.Send("GET /stream HTTP/1.0\r\n\r\n");
  ASSERT_TRUE(client.ReadUntil("begun"));
  EXPECT_THAT(client.got(), AllOf(HasSubstr("Connection: close"), ::testing::Not(HasSubstr("chunked"))));
}

TEST_F(HttpServerTest, AHandlerThatFailsTakesNobodyElseWithIt) {
  Start();
  EXPECT_EQ(Refused(Get("/throw")), 500);
  ExpectServing();
}

TEST_F(HttpServerTest, ADeedThatFailsTakesNobodyElseWithIt) {
  Start();
  EXPECT_EQ(Refused(Get("/throw_later")), 500);
  EXPECT_TRUE(handler_.events.WaitFor("destroyed"));
  RawClient begun(address());
  begun.Send(Get("/throw_late"));
  const std::string got = begun.ReadToEnd();  // which nobody takes for a whole answer
  EXPECT_THAT(got, ::testing::Not(HasSubstr("\r\n0\r\n")));
  EXPECT_TRUE(handler_.events.WaitFor("destroyed", 2));
  ExpectServing();
}

TEST_F(HttpServerTest, BeyondTheMostConnectionsOneIsToldToComeBack) {
  HttpServerOptions options;
  options.most_connections = 2;
  Start(options);
  {
    RawClient first(address()), second(address());
    for (RawClient* client : {&first, &second}) {
      client->Send(Get("/echo"));
      EXPECT_EQ(client->Read()->status, 200);
    }
    EXPECT_EQ(server_->connections(), 2);
    RawClient third(address());
    const auto refused = third.Read();
    ASSERT_TRUE(refused.has_value());
    EXPECT_EQ(refused->status, 503);
    EXPECT_EQ(refused->headers.at("Retry-After"), "1");
  }
  while (server_->connections() > 0) std::this_thread::yield();
  ExpectServing();
}

TEST_F(HttpServerTest, ManyAreServedAtOnce) {
  Start();
  std::list<RawClient> clients;
  for (int i = 0; i < 200; ++i) clients.emplace_back(address()).Send(Get(i % 2 == 0 ? "/wait" : "/echo"));
  int n = 0;
  for (RawClient& client : clients) {
    if (n++ % 2 == 1) {
      EXPECT_EQ(client.Read()->status, 200);
    }
  }
  ASSERT_TRUE(handler_.events.WaitFor("waiting", 100));
  handler_.Release();
  n = 0;
  for (RawClient& client : clients) {
    if (n++ % 2 == 0) {
      EXPECT_EQ(client.Read()->body, "released");
    }
  }
}

TEST_F(HttpServerTest, DrainingFinishesWhatRunsAndClosesTheRest) {
  Start();
  RawClient idle(address()), running(address());
  idle.Send(Get("/echo"));
  EXPECT_EQ(idle.Read()->status, 200);
  running.Send(Get("/wait"));
  ASSERT_TRUE(handler_.events.WaitFor("waiting"));
  EXPECT_FALSE(server_->Drain(milliseconds(1)));
  EXPECT_EQ(idle.ReadToEnd(), "");
  EXPECT_EQ(Refused(Get("/echo")), 200);  // answered, and then closed
  handler_.Release();
  EXPECT_TRUE(server_->Drain(std::chrono::minutes(1)));
  const auto answer = running.Read();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->body, "released");
  EXPECT_EQ(answer->headers.at("Connection"), "close");
}

TEST_F(HttpServerTest, EndingCutsWhatRuns) {
  Start();
  RawClient client(address());
  client.Send(Get("/wait"));
  ASSERT_TRUE(handler_.events.WaitFor("waiting"));
  server_ = nullptr;
  EXPECT_EQ(handler_.events.Count("destroyed"), 1);
  EXPECT_EQ(client.ReadToEnd(), "");
  handler_.Release();  // to a server that is gone
}

// Valid requests with bytes changed, cut and doubled: whatever they have become, the others are served.
TEST_F(HttpServerTest, AlteredRequestsHurtNobody) {
  HttpServerOptions options;
  options.head_time = options.body_time = options.linger = milliseconds(100);
  Start(options);
  testing::Random random(15);
  const std::string seeds[] = {
      Post("/echo", "{\"a\": 1}", "X-A: b\r\n"), Get("/echo?x") + Get("/echo"),
      "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n"};
  std::list<RawClient> clients;
  for (int i = 0; i < 3000; ++i) {
    std::string request = seeds[random.Below(3)];
    for (int64_t n = random.Below(5); n >= 0 && !request.empty(); --n) {
      const auto at = static_cast<size_t>(random.Below(static_cast<int64_t>(request.size())));
      switch (random.Below(4)) {
        case 0:
          request[at] = static_cast<char>(random.Next());
          break;
        case 1:
          request.erase(at, static_cast<size_t>(random.Below(20)));
          break;
        case 2:
          request.insert(at, request.substr(at, static_cast<size_t>(random.Below(40))));
          break;
        default:
          request.insert(at, 1, "\r\n\0 :;"[random.Below(6)]);
      }
    }
    RawClient& client = clients.emplace_back(address());
    client.Send(request);
    if (random.Below(2) == 0) client.HalfClose();
    if (clients.size() > 50) clients.pop_front();
  }
  clients.clear();
  ExpectServing();
}

}  // namespace
}  // namespace omni
