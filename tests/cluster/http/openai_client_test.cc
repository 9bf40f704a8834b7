// What a client makes of servers, good and bad.
#include "cluster/http/openai_client.h"

#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cluster/certificates.h"
#include "cluster/http/sse_parser.h"
#include "tests/cluster/http/raw_server.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Head;
using ::testing::Not;
using testing::RawServer;

constexpr char kSse[] = "text/event-stream";
constexpr char kOne[] =
    "data: {\"model\":\"m\",\"choices\":[{\"text\":\"one \",\"finish_reason\":null}]}\n\n";
constexpr char kTwo[] = "data: {\"choices\":[{\"text\":\"two\",\"finish_reason\":\"length\"}]}\n\n";
constexpr char kUsage[] =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n";
constexpr char kDone[] = "data: [DONE]\n\n";

HttpClientOptions At(const std::string& url) {
  HttpClientOptions options;
  options.url = url;
  return options;
}

struct Asked {
  absl::Status status;
  RemoteAnswer answer;
  std::string text;  // as it came
};

Asked Ask(HttpClientOptions options, const std::function<bool(const std::string&)>& wanted = nullptr,
          RemoteRequest request = {.prompt = "the sea"}, const std::string& model = "m") {
  Asked asked;
  auto client = OpenAiClient::Make(std::move(options), model);
  if (!client.ok()) {
    asked.status = client.status();
    return asked;
  }
  asked.status = (*client)->Complete(
      request,
      [&](std::string_view text) {
        asked.text += text;
        return wanted == nullptr || wanted(asked.text);
      },
      asked.answer);
  return asked;
}

std::vector<std::string> Stream(std::vector<std::string> events) {
  events.insert(events.begin(), Head("200 OK", kSse, "X-Request-Id: r-7\r\n"));
  return events;
}

std::vector<std::string> Events(const std::string& text, size_t piece, size_t most = 1 << 20) {
  SseParser parser(most);
  std::vector<std::string> events;
  for (size_t at = 0; at < text.size(); at += piece) {
    const absl::Status status =
        parser.Push(std::string_view(text).substr(at, piece), [&](std::string_view data) {
          events.emplace_back(data);
          return data != "end";
        });
    if (!status.ok()) events.push_back("error");
  }
  return events;
}

TEST(SseParser, TellsTheDataOfEachEventHoweverItIsCut) {
  const std::string text =
      "\xef\xbb\xbf"
      "data: a\n\ndata:b\r\n\r\n: comment\n\ndata\rdata: c\r\revent: x\nid: 1\ndata:  d\n\ndatax: no\n\n"
      "data: end\n\ndata: after\n\n";
  for (size_t piece = 1; piece < text.size(); ++piece)
    EXPECT_THAT(Events(text, piece), ElementsAre("a", "b", "\nc", " d", "end")) << piece;
  EXPECT_THAT(Events("data: cut", 3), ElementsAre());
  EXPECT_THAT(Events("data: cut\n", 3), ElementsAre());
}

TEST(SseParser, AnEventHasALimit) {
  EXPECT_THAT(Events("data: " + std::string(100, 'x') + "\n\n", 7, 50), ElementsAre("error"));
  EXPECT_THAT(Events("data: 0123456789\ndata: 0123456789\ndata: 0123456789\n\n", 7, 30),
              ElementsAre("error"));
  EXPECT_THAT(Events("data: 01\n\ndata: 23\n\ndata: 45\n\ndata: 67\n\n", 3, 12),
              ElementsAre("01", "23", "45", "67"));
}

TEST(HttpUrl, IsReadAndWrittenAsItIs) {
  const auto url = ParseHttpUrl("HTTPS://api.example:8443/openai/v1/");
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_TRUE(url->tls);
  EXPECT_EQ(url->HostHeader(), "api.example:8443");
  EXPECT_EQ(url->path, "/openai/v1");
  EXPECT_EQ(ParseHttpUrl("http://[::1]:80")->HostHeader(), "[::1]");
  EXPECT_EQ(ParseHttpUrl("http://h")->port, "80");
  EXPECT_EQ(ParseHttpUrl("https://h/")->port, "443");
  for (const char* bad :
       {"", "h:80", "ftp://h", "http://", "http://:80", "http://h:0", "http://h:65536", "http://h:x",
        "http://h?x", "http://h/#x", "http://h h", "http://[::1", "http://::1", "http://h\r\nX:1"})
    EXPECT_FALSE(ParseHttpUrl(bad).ok()) << bad;
  for (const char* with_password :
       {"http://me:secret@h/", "me:secret@h:80", "ftp://me:secret@h/", "http:/me:secret@h", "//me:secret@h",
        "http://me:sec/secret@h", "http://me:secret@h?x", " http://me:secret@h", "http://h:x/secret@"}) {
    const absl::Status refused = ParseHttpUrl(with_password).status();
    EXPECT_TRUE(absl::IsInvalidArgument(refused)) << with_password;
    EXPECT_THAT(std::string(refused.message()), Not(HasSubstr("secret")));
  }
  EXPECT_EQ(ParseHttpUrl("http://h/@v1")->path, "/@v1");
}

TEST(OpenAiClient, StreamsAnAnswerAndAsksForItAsSettingsSay) {
  std::string request;
  RawServer server([&](const std::string& got) {
    request = got;
    return Stream({": hello\n\n", kOne, kTwo, kUsage, kDone});
  });
  HttpClientOptions options = At(server.url());
  options.key = "sk-secret";
  RemoteRequest ask{.prompt = "the sea", .max_tokens = 9, .stops = {"x"}, .stop_at_end_of_text = false};
  ask.sampler.seed = 5;
  ask.sampler.repetition_penalty = 1.5;
  const Asked asked = Ask(options, nullptr, ask);
  ASSERT_TRUE(asked.status.ok()) << asked.status;
  EXPECT_EQ(asked.text, "one two");
  EXPECT_EQ(asked.answer.text, "one two");
  EXPECT_EQ(asked.answer.reason, "length");
  EXPECT_EQ(asked.answer.request_id, "r-7");
  EXPECT_EQ(asked.answer.prompt_tokens, 7);
  EXPECT_EQ(asked.answer.tokens, 2);
  EXPECT_THAT(request, AllOf(HasSubstr("POST /v1/completions HTTP/1.1\r\n"), HasSubstr("Host: 127.0.0.1:"),
                             HasSubstr("Authorization: Bearer sk-secret\r\n")));
  const json body = json::parse(request.substr(request.find("\r\n\r\n")));
  EXPECT_EQ(body["prompt"], "the sea");
  EXPECT_EQ(body["model"], "m");
  EXPECT_EQ(body["max_tokens"], 9);
  EXPECT_EQ(body["seed"], 5);
  EXPECT_EQ(body["stop"], json::array({"x"}));
  EXPECT_EQ(body["temperature"].get<float>(), 0.8f);
  EXPECT_EQ(body["top_k"], 40);
  EXPECT_EQ(body["repeat_penalty"], 1.5);
  EXPECT_EQ(body["ignore_eos"], true);
  EXPECT_FALSE(body.contains("min_p"));
}

TEST(OpenAiClient, AChatIsAskedForByItsMessages) {
  std::string request;
  RawServer server([&](const std::string& got) {
    request = got;
    return Stream({"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
                   "data: {\"choices\":[{\"delta\":{\"content\":\"yes\"}}]}\n\n",
                   "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n", kDone});
  });
  const Asked asked =
      Ask(At(server.url() + "/openai/v1/"), nullptr, {.messages = {{"system", "s"}, {"user", "u"}}});
  ASSERT_TRUE(asked.status.ok()) << asked.status;
  EXPECT_EQ(asked.text, "yes");
  EXPECT_EQ(asked.answer.reason, "stop");
  EXPECT_FALSE(asked.answer.tokens.has_value());
  EXPECT_THAT(request, HasSubstr("POST /openai/v1/chat/completions HTTP/1.1\r\n"));
  EXPECT_THAT(request,
              HasSubstr(R"("messages":[{"content":"s","role":"system"},{"content":"u","role":"user"}])"));
}

// Others' servers pass over what they do not know.
TEST(OpenAiClient, AnAnswerThatDoesNotSayThatItHadTheAdapterIsAnError) {
  std::string request, last = kTwo;
  RawServer server([&](const std::string& got) {
    request = got;
    return Stream({kOne, last, kDone});
  });
  const RemoteRequest ask = {.prompt = "the sea", .adapter = "me"};
  const Asked without = Ask(At(server.url()), nullptr, ask);
  EXPECT_THAT(request, HasSubstr(R"("adapter":"me")"));
  EXPECT_EQ(without.status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(without.status.message()), HasSubstr("without the adapter 'me'"));
  EXPECT_EQ(without.answer.text, "one two");
  last.insert(last.find("\"text\""), R"("adapter":{"name":"me","hash":"0a"},)");
  const Asked with = Ask(At(server.url()), nullptr, ask);
  EXPECT_TRUE(with.status.ok()) << with.status;
  EXPECT_EQ(with.answer.adapter_hash, "0a");
  EXPECT_EQ(with.text, "one two");
  Ask(At(server.url()));
  EXPECT_THAT(request, Not(HasSubstr("adapter")));
}

TEST(OpenAiClient, WhoWantsNoMoreEndsTheAnswerAtTheServer) {
  RawServer server([](const std::string&) { return Stream({kOne, RawServer::kUntilGone}); });
  const Asked asked = Ask(At(server.url()), [](const std::string& text) { return text.empty(); });
  EXPECT_TRUE(asked.status.ok()) << asked.status;
  EXPECT_EQ(asked.answer.reason, "cancelled");
  EXPECT_EQ(asked.answer.text, "one ");
  EXPECT_TRUE(server.WaitForGone());
}

TEST(OpenAiClient, WhoeverIsWaitedForInSilenceCanBeGivenUpToo) {
  RawServer server([](const std::string&) { return std::vector<std::string>{RawServer::kUntilGone}; });
  int asked_how_often = 0;
  const Asked asked = Ask(At(server.url()), [&](const std::string&) { return ++asked_how_often < 3; });
  EXPECT_TRUE(asked.status.ok()) << asked.status;
  EXPECT_EQ(asked.answer.reason, "cancelled");
  EXPECT_TRUE(server.WaitForGone());
}

TEST(OpenAiClient, AServerThatGoesAwayInMidAnswerIsAnErrorAndWhatCameIsKept) {
  for (const std::vector<std::string>& said :
       {Stream({kOne}),
        {Head("200 OK", kSse, "Content-Length: 5000\r\n"), kOne},
        {Head("200 OK", kSse, "Transfer-Encoding: chunked\r\n"), "100\r\n", kOne}}) {
    RawServer server([&](const std::string&) { return said; });
    const Asked asked = Ask(At(server.url()));
    EXPECT_TRUE(absl::IsUnavailable(asked.status)) << asked.status;
    EXPECT_THAT(std::string(asked.status.message()), HasSubstr(server.url()));
    EXPECT_EQ(asked.answer.text, "one ");
    EXPECT_EQ(asked.answer.reason, "");
  }
}

TEST(OpenAiClient, WhatAServerRefusesIsSaidWithItsOwnWords) {
  const auto refuse = [](const std::string& status, const std::string& body, const std::string& more = "") {
    RawServer server([&](const std::string&) {
      return std::vector<std::string>{
          Head(status, "application/json", "Content-Length: " + std::to_string(body.size()) + "\r\n" + more),
          body};
    });
    HttpClientOptions options = At(server.url());
    options.key = "sk-secret";
    const Asked asked = Ask(options);
    EXPECT_THAT(std::string(asked.status.message()), Not(HasSubstr("secret")));
    return asked.status;
  };
  const std::string body = R"({"error":{"message":"so it is","type":"t","param":null,"code":"c"}})";
  for (const auto& [status, code, words] :
       {std::tuple{"401 Unauthorized", absl::StatusCode::kUnauthenticated, "--api-key"},
        {"403 Forbidden", absl::StatusCode::kPermissionDenied, "403"},
        {"404 Not Found", absl::StatusCode::kNotFound, "404"},
        {"400 Bad Request", absl::StatusCode::kInvalidArgument, "400"},
        {"500 Internal Server Error", absl::StatusCode::kInternal, "500"},
        {"503 Service Unavailable", absl::StatusCode::kUnavailable, "503"}}) {
    const absl::Status got = refuse(status, body);
    EXPECT_EQ(got.code(), code) << got;
    EXPECT_THAT(std::string(got.message()), AllOf(HasSubstr("so it is"), HasSubstr(words)));
  }
  EXPECT_THAT(std::string(refuse("429 Too Many Requests", body, "Retry-After: 3\r\n").message()),
              HasSubstr("try again in 3 s"));
  EXPECT_THAT(std::string(refuse("301 Moved", "", "Location: http://other/\r\n").message()),
              HasSubstr("elsewhere"));
  EXPECT_THAT(std::string(refuse("500 Oops", "<html>\x1b[31m").message()), HasSubstr("<html>"));
}

TEST(OpenAiClient, WhatIsNoStreamOfAnswersIsRefused) {
  const auto said = [](const std::vector<std::string>& what) {
    RawServer server([&](const std::string&) { return what; });
    HttpClientOptions options = At(server.url());
    options.most_bytes = 1000;
    return Ask(options).status;
  };
  EXPECT_THAT(std::string(said({"SSH-2.0-x\r\n\r\n"}).message()), HasSubstr("speaks no HTTP/1.1"));
  EXPECT_THAT(std::string(said({}).message()), HasSubstr("without an answer"));
  EXPECT_THAT(
      std::string(said({Head("200 OK", "application/json", "Content-Length: 2\r\n"), "{}"}).message()),
      HasSubstr("no stream of events, but application/json"));
  EXPECT_TRUE(absl::IsResourceExhausted(said({Head("200 OK", "text/plain"), std::string(2000, 'x')})));
  EXPECT_FALSE(said({Head("200 OK", "text/plain", "X: " + std::string(100'000, 'x') + "\r\n"), "x"}).ok());
  EXPECT_THAT(std::string(said(Stream({"data: {\n\n"})).message()), HasSubstr("is not JSON"));
  EXPECT_THAT(std::string(said(Stream({"data: {\"error\":{\"message\":\"out of memory\"}}\n\n"})).message()),
              HasSubstr("out of memory"));
  EXPECT_TRUE(absl::IsResourceExhausted(said(Stream({"data: " + std::string(3 << 20, 'x')}))));
  std::vector<std::string> interim(20, "HTTP/1.1 102 Processing\r\n\r\n");
  EXPECT_THAT(std::string(said(interim).message()), HasSubstr("only says that it will answer"));
}

TEST(OpenAiClient, TheOneModelOfAServerIsTakenAndOfSeveralOneMustBeNamed) {
  const auto model = [](const std::string& body) {
    RawServer server([&](const std::string&) {
      return std::vector<std::string>{
          Head("200 OK", "application/json", "Content-Length: " + std::to_string(body.size()) + "\r\n"),
          body};
    });
    auto client = OpenAiClient::Make(At(server.url()), "");
    EXPECT_TRUE(client.ok());
    return (*client)->Model(nullptr);
  };
  EXPECT_EQ(*model(R"({"data":[{"id":"mini"}]})"), "mini");
  EXPECT_THAT(std::string(model(R"({"data":[{"id":"a"},{"id":"b"}]})").status().message()),
              HasSubstr("name one with -m: a, b"));
  EXPECT_TRUE(absl::IsNotFound(model(R"({"data":[]})").status()));
  EXPECT_TRUE(absl::IsNotFound(model("[]").status()));
}

TEST(OpenAiClient, NobodyThereIsSaidWithTheAddress) {
  std::string url;
  {
    const RawServer gone([](const std::string&) { return std::vector<std::string>(); });
    url = gone.url();
  }
  const absl::Status status = Ask(At(url)).status;
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(url), HasSubstr("nobody answers")));
}

TEST(OpenAiClient, AHostIsFoundByItsName) {
  RawServer server([](const std::string&) { return Stream({kOne, kTwo, kDone}); });
  EXPECT_EQ(Ask(At("http://localhost:" + server.port())).text, "one two");
  HttpClientOptions options = At("http://kitchen.example:" + server.port());
  options.find_host = [](const std::string& host) -> absl::StatusOr<std::vector<std::string>> {
    return std::vector<std::string>{host == "kitchen.example" ? "127.0.0.1" : "192.0.2.1"};
  };
  EXPECT_EQ(Ask(options).text, "one two");
  options.find_host = [](const std::string&) { return absl::UnavailableError("no such host"); };
  const absl::Status unknown = Ask(options).status;
  EXPECT_TRUE(absl::IsUnavailable(unknown)) << unknown;
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("'kitchen.example' is not found"));
}

TEST(OpenAiClient, WhoeverWaitsForANameCanGiveItUp) {
  const auto over = std::make_shared<std::promise<void>>();
  HttpClientOptions options = At("http://kitchen.example");
  options.find_host =
      [wait = over->get_future().share()](const std::string&) -> absl::StatusOr<std::vector<std::string>> {
    wait.wait();
    return std::vector<std::string>();
  };
  int asked = 0;
  auto client = OpenAiClient::Make(options, "");
  ASSERT_TRUE(client.ok());
  EXPECT_TRUE(absl::IsCancelled((*client)->Model([&] { return ++asked < 3; }).status()));
  options.connect_time = std::chrono::milliseconds(1);
  EXPECT_TRUE(absl::IsDeadlineExceeded((*OpenAiClient::Make(options, ""))->Model(nullptr).status()));
  over->set_value();
}

TEST(OpenAiClient, ATextThatIsNoUtf8IsNotSent) {
  EXPECT_TRUE(absl::IsInvalidArgument(Ask(At("http://127.0.0.1:1"), nullptr, {.prompt = "\xff"}).status));
}

TEST(OpenAiClient, AKeyDoesNotLeaveTheMachineInTheClearNorInAMessage) {
  HttpClientOptions options = At("http://192.0.2.1:80");
  options.key = "sk-secret";
  const absl::Status plain = Ask(options).status;
  EXPECT_TRUE(absl::IsInvalidArgument(plain)) << plain;
  EXPECT_THAT(std::string(plain.message()), AllOf(HasSubstr("--allow-plain"), Not(HasSubstr("secret"))));
  options = At("http://127.0.0.1:1");
  options.key = "sk-secret\r\nX: y";
  const absl::Status split = Ask(options).status;
  EXPECT_TRUE(absl::IsInvalidArgument(split)) << split;
  EXPECT_THAT(std::string(split.message()), Not(HasSubstr("secret")));
}

TEST(OpenAiClient, ACertificateIsBelievedOnlyFromAnAuthorityThatIs) {
  const testing::TempDir dir;
  ASSERT_TRUE(MakeAuthority(dir / "authority").ok());
  ASSERT_TRUE(MakeNodeCertificate(dir / "authority", "a", {"127.0.0.1", "localhost"}, dir / "a").ok());
  ASSERT_TRUE(MakeNodeCertificate(dir / "authority", "b", {"kitchen"}, dir / "b").ok());
  const auto script = [](const std::string&) { return Stream({kOne, kTwo, kDone}); };
  RawServer server(script, dir / "a"), other(script, dir / "b");
  HttpClientOptions options = At(server.url());
  options.ca_file = dir / "authority/authority.pem";
  options.key = "sk-secret";
  const Asked good = Ask(options);
  EXPECT_TRUE(good.status.ok()) << good.status;
  EXPECT_EQ(good.text, "one two");
  options.url = "https://localhost:" + server.port();
  EXPECT_TRUE(Ask(options).status.ok());

  // An answer that ends with its connection, whole and cut.
  for (const bool cut : {false, true}) {
    std::vector<std::string> said = {Head("200 OK", "application/json"), R"({"data":[{"id":"mini"}]})"};
    if (cut) said.push_back(RawServer::kCut);
    RawServer ending([&](const std::string&) { return said; }, dir / "a");
    HttpClientOptions to = options;
    to.url = ending.url();
    const auto model = (*OpenAiClient::Make(to, ""))->Model(nullptr);
    EXPECT_EQ(model.ok(), !cut) << model.status();
    EXPECT_EQ(absl::IsUnavailable(model.status()), cut) << model.status();
  }

  const absl::Status unknown = Ask(At(server.url())).status;
  EXPECT_TRUE(absl::IsFailedPrecondition(unknown)) << unknown;
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("--ca"));
  options.url = other.url();
  const absl::Status name = Ask(options).status;
  EXPECT_TRUE(absl::IsFailedPrecondition(name)) << name;
  EXPECT_THAT(std::string(name.message()), HasSubstr("not for '127.0.0.1'"));

  const RawServer plain(script);
  const absl::Status no_tls = Ask(At("https://127.0.0.1:" + plain.port())).status;
  EXPECT_THAT(std::string(no_tls.message()), HasSubstr("no TLS"));
  const absl::Status tls = Ask(At("http://127.0.0.1:" + server.port())).status;
  EXPECT_FALSE(tls.ok());
  options.ca_file = dir / "nothing.pem";
  EXPECT_THAT(std::string(Ask(options).status.message()), HasSubstr("nothing.pem"));
}

}  // namespace
}  // namespace omni
