// HTTP over TLS: what is said arrives, whoever does not speak it well harms nobody, and certificates can be
// renewed.
#include "cluster/http/tls.h"

#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cluster/certificates.h"
#include "cluster/http/http_server.h"
#include "tests/cluster/http/raw_client.h"
#include "tests/cluster/http/tls_client.h"
#include "tests/testing/file_bytes.h"
#include "tests/testing/recording_log.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::system_clock;
using testing::Get;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Post;
using testing::RawClient;
using ::testing::SizeIs;
using testing::TlsClient;

// Answers with the body, or in pieces of a megabyte.
class Echo : public HttpHandler {
 public:
  std::shared_ptr<HttpCall> OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    HttpAnswer answer;
    if (request.path == "/pieces") {
      exchange->Begin(answer);
      for (int i = 0; i < kPieces; ++i) exchange->Write(std::string(1 << 20, static_cast<char>('a' + i)));
      exchange->End();
    } else {
      answer.body = std::move(request.body);
      exchange->Answer(answer);
    }
    return nullptr;
  }
  HttpAnswer OnRefused(int status, const std::string& why) override {
    HttpAnswer answer;
    answer.status = status;
    answer.body = why;
    return answer;
  }
  void OnDone(const HttpDone&) override {}
  static constexpr int kPieces = 5;
};

class TlsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::signal(SIGPIPE, SIG_IGN);  // of the clients here, whose library writes as to a file
    ASSERT_TRUE(MakeAuthority(temp_ / "ca", {.from = system_clock::now() - hours(72)}).ok());
    Node("first");
    Node("second");
    Use("first");
  }
  void Node(const std::string& name, const CertificateOptions& options = {}) {
    ASSERT_TRUE(MakeNodeCertificate(temp_ / "ca", name, {"127.0.0.1"}, temp_ / name, options).ok());
  }
  // The server's files become those of a node's folder; `key`: whose.
  void Use(const std::string& name, std::string key = {}) {
    if (key.empty()) key = name;
    for (const auto& [from, to] :
         {std::pair(name + "/node.pem", "cert.pem"), {key + "/node.key", "key.pem"}}) {
      fs::copy_file(temp_ / from, temp_ / (to + std::string(".new")), fs::copy_options::overwrite_existing);
      fs::rename(temp_ / (to + std::string(".new")), temp_ / to);
    }
  }
  void Serve(HttpServerOptions options = {}) {
    auto tls = TlsContext::Open(temp_ / "cert.pem", temp_ / "key.pem", [this] {
      return std::chrono::steady_clock::time_point(milliseconds(ticks_ms_));
    });
    ASSERT_TRUE(tls.ok()) << tls.status();
    tls_ = *std::move(tls);
    options.listen = "127.0.0.1:0";
    options.tls = tls_;
    auto server = HttpServer::Listen(options, handler_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->Run();
  }
  testing::TlsClientOptions Trusting() {
    return {
        .authority = testing::FileBytes(temp_ / "ca/authority.pem"), .version = 0, .protocols = {"http/1.1"}};
  }
  void ExpectServes() {
    TlsClient client(server_->address(), Trusting());
    ASSERT_TRUE(client.connected());
    client.Send(Post("/echo", "still here"));
    const auto answer = client.Read();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->body, "still here");
  }
  // What a client of TLS says first.
  static std::string Hello() {
    const SslContextPtr context(SSL_CTX_new(TLS_client_method()));
    const SslPtr ssl(SSL_new(context.get()));
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    SSL_set_bio(ssl.get(), in, out);
    SSL_connect(ssl.get());
    char* bytes = nullptr;
    const long n = BIO_get_mem_data(out, &bytes);
    return {bytes, static_cast<size_t>(n)};
  }

  // The certificate's name that who comes then is shown.
  std::string Shown(milliseconds after) {
    ticks_ms_ += after.count();
    return TlsClient(server_->address(), Trusting()).server();
  }

  const testing::TempDir temp_ = testing::TempDir::InMemory();
  std::atomic<int64_t> ticks_ms_{1'000'000};
  Echo handler_;
  std::shared_ptr<TlsContext> tls_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(TlsTest, WhatIsSaidArrives) {
  Serve();
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    testing::TlsClientOptions options = Trusting();
    options.version = version;
    TlsClient client(server_->address(), options);
    ASSERT_TRUE(client.connected());
    EXPECT_EQ(client.version(), version == TLS1_2_VERSION ? "TLSv1.2" : "TLSv1.3");
    EXPECT_EQ(client.protocol(), "http/1.1");
    EXPECT_EQ(client.server(), "first");
    // One after another, two at once, and more than a record, a buffer and a socket hold.
    std::string large;
    for (int i = 0; large.size() < 3 << 20; ++i) absl::StrAppend(&large, i, ",");
    for (const std::string& body : {std::string("a"), std::string(), large, std::string("b")}) {
      client.Send(Post("/echo", body));
      const auto answer = client.Read();
      ASSERT_TRUE(answer.has_value());
      EXPECT_EQ(answer->status, 200);
      EXPECT_TRUE(answer->body == body) << answer->body.size();
    }
    client.Send(Post("/echo", "x") + Post("/echo", "y"));
    EXPECT_EQ(client.Read()->body, "x");
    EXPECT_EQ(client.Read()->body, "y");
    client.Send(Get("/pieces"));
    const auto pieces = client.Read();
    ASSERT_TRUE(pieces.has_value());
    std::string expected;
    for (int i = 0; i < Echo::kPieces; ++i) expected += std::string(1 << 20, static_cast<char>('a' + i));
    EXPECT_TRUE(pieces->body == expected) << pieces->body.size();
  }
}

TEST_F(TlsTest, OldVersionsAndOtherProtocolsAreRefused) {
  Serve();
  EXPECT_FALSE(TlsClient(server_->address(), {.authority = "", .version = TLS1_1_VERSION, .protocols = {}})
                   .connected());
  EXPECT_FALSE(
      TlsClient(server_->address(), {.authority = "", .version = 0, .protocols = {"h2"}}).connected());
  EXPECT_TRUE(TlsClient(server_->address(), {.authority = "", .version = 0, .protocols = {}}).connected());
  EXPECT_EQ(TlsClient(server_->address(), {.authority = "", .version = 0, .protocols = {"h2", "http/1.1"}})
                .protocol(),
            "http/1.1");
  ExpectServes();
}

TEST_F(TlsTest, AClientThatIsDoneIsAnsweredAndThenTheServerIs) {
  Serve();
  TlsClient client(server_->address(), Trusting());
  client.Send(Post("/echo", "last"));
  client.SayEnd();
  client.HalfClose();
  EXPECT_EQ(client.Read()->body, "last");
  EXPECT_EQ(client.ReadToEnd(), "");
  TlsClient closing(server_->address(), Trusting());
  closing.Send(Post("/echo", "last", "Connection: close\r\n"));
  EXPECT_EQ(closing.Read()->body, "last");
  EXPECT_EQ(closing.ReadToEnd(), "");
}

TEST_F(TlsTest, WhoSpeaksPlainHttpIsToldSo) {
  Serve();
  RawClient client(server_->address());
  client.Send(Get("/echo"));
  const auto answer = client.Read();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->status, 400);
  EXPECT_THAT(answer->body, HasSubstr("https://"));
  ExpectServes();
}

TEST_F(TlsTest, AHandshakeThatIsNotFinishedInTimeIsCutOff) {
  HttpServerOptions options;
  options.head_time = milliseconds(50);
  Serve(options);
  const std::string hello = Hello();
  // Nothing, a part, and all of the first message; the answer to that is not gone on with.
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{5}, hello.size() / 2, hello.size()}) {
    RawClient client(server_->address());
    client.Send(hello.substr(0, bytes));
    client.ReadToEnd();
    EXPECT_TRUE(client.ended());
  }
}

TEST_F(TlsTest, NoHandshakeKeepsTheServerFromEnding) {
  Serve();
  RawClient silent(server_->address()), half(server_->address());
  half.Send(Hello().substr(0, 20));
  ExpectServes();
  EXPECT_TRUE(server_->Drain(std::chrono::minutes(1)));
  silent.ReadToEnd();
  half.ReadToEnd();
}

TEST_F(TlsTest, HostileHandshakesHarmNobody) {
  Serve();
  TlsClient good(server_->address(), Trusting());
  ASSERT_TRUE(good.connected());
  const std::string hello = Hello();
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {
    std::string bytes = hello;
    switch (i % 4) {
      case 0:  // cut
        bytes.resize(random() % bytes.size());
        break;
      case 1:  // a few bytes are others
        for (int k = 0; k < 3; ++k) bytes[random() % bytes.size()] = static_cast<char>(random());
        break;
      case 2:  // no TLS at all
        for (char& c : bytes) c = static_cast<char>(random());
        break;
      case 3:  // a record that says it is long, and more after it
        bytes[3] = static_cast<char>(0x3f);
        bytes += std::string(20000, static_cast<char>(random()));
        break;
    }
    RawClient client(server_->address());
    client.Send(bytes);
    client.HalfClose();
    client.ReadToEnd();
  }
  good.Send(Post("/echo", "unharmed"));
  EXPECT_EQ(good.Read()->body, "unharmed");
  ExpectServes();
}

// The same without sockets, where more fit into the time.
TEST_F(TlsTest, WhateverBytesComeASessionEndsOrWaits) {
  Serve();
  const std::string hello = Hello();
  std::mt19937 random(11);
  for (int i = 0; i < 3000; ++i) {
    const auto session = tls_->Begin();
    std::string bytes = hello, plain, out;
    for (int k = static_cast<int>(random() % 4); k >= 0; --k)
      bytes[random() % bytes.size()] = static_cast<char>(random());
    while (!bytes.empty()) {
      const size_t n = std::min<size_t>(bytes.size(), 1 + random() % 300);
      const auto state = session->Receive(std::string_view(bytes).substr(0, n), plain, out);
      ASSERT_TRUE(state == TlsSession::State::kHandshake || state == TlsSession::State::kFailed ||
                  state == TlsSession::State::kPlain);
      bytes.erase(0, n);
    }
    ASSERT_THAT(plain, IsEmpty());
    ASSERT_LT(out.size(), 8192u);
  }
}

TEST_F(TlsTest, ARenewedCertificateIsShownToWhoComesNext) {
  const testing::RecordingLog log;
  Serve();
  TlsClient before(server_->address(), Trusting());
  EXPECT_EQ(before.server(), "first");
  Use("second");
  EXPECT_EQ(Shown(milliseconds(999)), "first");
  EXPECT_EQ(Shown(milliseconds(1)), "second");
  before.Send(Post("/echo", "goes on"));
  EXPECT_EQ(before.Read()->body, "goes on");
  EXPECT_THAT(log.Messages("certificate_reloaded"), SizeIs(1));
}

TEST_F(TlsTest, APairThatCannotBeUsedLeavesTheOldOneAndIsSaidOnce) {
  const testing::RecordingLog log;
  Serve();
  Node("over", {.valid = hours(1), .from = system_clock::now() - hours(48)});
  size_t said = 0;
  const auto expect_kept = [&](const std::string& why) {
    for (int i = 0; i < 3; ++i) EXPECT_EQ(Shown(seconds(1)), "first");
    const std::vector<std::string> messages = log.Messages("certificate_not_reloaded");
    ASSERT_THAT(messages, SizeIs(++said));
    EXPECT_THAT(messages.back(), HasSubstr(why));
  };
  Use("second", "first");
  expect_kept("is not the key of the certificate");
  Use("over");
  expect_kept("the certificate is over");
  Use("second", "second");
  fs::remove(temp_ / "key.pem");
  expect_kept("key.pem");
  fs::copy_file(temp_ / "second/node.pem", temp_ / "key.pem");
  expect_kept("holds no private key");
  Use("second");
  EXPECT_EQ(Shown(seconds(1)), "second");
}

// Renewed while the server lacks what reading it takes: it comes when that is there, though nothing changes.
TEST_F(TlsTest, ARenewedCertificateThatCouldNotBeReadOnceIsReadLater) {
  const testing::RecordingLog log;
  Serve();
  Use("second");
  rlimit files{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &files), 0);
  const rlimit none{1, files.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);  // no other file can be opened
  ticks_ms_ += 1000;
  EXPECT_NE(tls_->Begin(), nullptr);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
  EXPECT_THAT(log.Messages("certificate_not_reloaded"), SizeIs(1));
  EXPECT_EQ(Shown(milliseconds(0)), "first");
  EXPECT_EQ(Shown(seconds(1)), "second");
}

TEST_F(TlsTest, WhatIsWrongWithThePairIsSaidAtTheStart) {
  const auto error = [&](const std::string& certificate, const std::string& key) {
    return TlsContext::Open(temp_ / certificate, temp_ / key).status();
  };
  EXPECT_TRUE(absl::IsNotFound(error("nothing.pem", "key.pem")));
  EXPECT_THAT(std::string(error("key.pem", "key.pem").message()), HasSubstr("holds no certificate"));
  EXPECT_THAT(std::string(error("cert.pem", "cert.pem").message()), HasSubstr("holds no private key"));
  EXPECT_THAT(std::string(error("cert.pem", "second/node.key").message()), HasSubstr("is not the key"));
}

TEST(TlsAddress, OffLoopbackItIsServedWithKeysAndTlsAlone) {
  Echo handler;
  HttpServerOptions options;
  options.listen = "0.0.0.0:0";
  options.keys = true;
  EXPECT_TRUE(absl::IsInvalidArgument(HttpServer::Listen(options, handler).status()));
}

}  // namespace
}  // namespace omni
