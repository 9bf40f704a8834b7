// Who may ask an HTTP door for what: every route that there is, by everybody who might; and which pages may.
#include <algorithm>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <absl/strings/escaping.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cluster/http/http_door.h"
#include "cluster/http/http_guard.h"
#include "tests/cluster/http/raw_client.h"
#include "tests/testing/recording_log.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using nlohmann::json;
using std::chrono::hours;
using std::chrono::seconds;
using std::chrono::system_clock;
using testing::Get;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Post;
using testing::RawAnswer;
using testing::RawClient;

// A route that is added belongs here.
const std::map<std::string, RouteNeeds> kRoutes = {
    {"GET /", RouteNeeds::kNothing},
    {"GET /web/*", RouteNeeds::kNothing},
    {"GET /v1/status", RouteNeeds::kAdmin},
    {"GET /v1/status/stream", RouteNeeds::kAdmin},
    {"GET /health", RouteNeeds::kNothing},
    {"GET /ready", RouteNeeds::kNothing},
    {"GET /metrics", RouteNeeds::kAdmin},
    {"GET /props", RouteNeeds::kInfer},
    {"GET /v1/adapters", RouteNeeds::kInfer},
    {"GET /v1/models", RouteNeeds::kInfer},
    {"GET /v1/models/*", RouteNeeds::kInfer},
    {"POST /v1/chat/completions", RouteNeeds::kInfer},
    {"POST /v1/completions", RouteNeeds::kInfer},
    {"POST /v1/responses", RouteNeeds::kInfer},
    {"GET /v1/responses/*", RouteNeeds::kInfer},
    {"DELETE /v1/responses/*", RouteNeeds::kInfer},
    {"POST /v1/embeddings", RouteNeeds::kInfer},
};

constexpr char kNobody[] = "nobody", kWrong[] = "wrong", kExpired[] = "expired", kBasic[] = "basic",
               kTwo[] = "two keys", kInfer[] = "infer", kTasks[] = "tasks", kAdmin[] = "admin";
const char* const kCallers[] = {kNobody, kWrong, kExpired, kBasic, kTwo, kInfer, kTasks, kAdmin};
const std::set<std::string> kKnown = {kInfer, kTasks, kAdmin};

// 401, 403, or 0: it is let in, whatever is said to it there.
int Expected(const std::string& caller, RouteNeeds needs) {
  if (needs == RouteNeeds::kNothing) return 0;
  if (!kKnown.contains(caller)) return 401;
  const char* const scope = needs == RouteNeeds::kInfer   ? kInfer
                            : needs == RouteNeeds::kTasks ? kTasks
                                                          : kAdmin;
  return caller == scope ? 0 : 403;
}

// Something that answers nothing.
class NoBackend : public InferenceBackend {
 public:
  absl::Status Serving() override { return absl::OkStatus(); }
  std::string Elsewhere() override { return {}; }
  absl::StatusOr<std::unique_ptr<SessionHandle>> Submit(GenerateRequest, SubmitOptions) override {
    return absl::InternalError("nothing is computed here");
  }
  const Tokenizer& tokenizer() override { return tokenizer_; }
  int64_t max_context() override { return 1000; }
  std::string model_hash() override { return "hash"; }
  std::string node() override { return "node"; }

 private:
  const Tokenizer tokenizer_ = Tokenizer::Train("ab ab abc", 300).value();
};

class NoStatus : public StatusSource {
 public:
  ProcessFacts Facts() override {
    ProcessFacts facts;
    facts.config = *Preset("tiny");
    return facts;
  }
  ProcessStatus Now() override {
    if (asked != nullptr) asked();
    return {};
  }
  std::function<void()> asked;  // set while nobody watches
};

class HttpAccessTest : public ::testing::Test {
 protected:
  void Open(bool keys, std::vector<std::string> origins = {}) {
    HttpDoor::Behind behind;
    behind.backend = &backend_;
    behind.status = &status_;
    behind.guard.cors_origins = std::move(origins);
    if (keys) {
      MakeKeys();
      auto access = Access::Open(temp_ / "keys.json");
      ASSERT_TRUE(access.ok()) << access.status();
      behind.guard.access = *std::move(access);
    }
    HttpServerOptions http;
    http.listen = "127.0.0.1:0";
    ServedModel model;
    model.name = "small";
    auto door = HttpDoor::Open(http, model, behind);
    ASSERT_TRUE(door.ok()) << door.status();
    door_ = *std::move(door);
  }
  void MakeKeys() {
    const KeyTime now = std::chrono::floor<seconds>(system_clock::now());
    const auto make = [&](const char* caller, Scope scope, KeyTime from) {
      const auto made = CreateKey(temp_ / "keys.json", caller, scope, hours(1), from);
      ASSERT_TRUE(made.ok()) << made.status();
      headers_[caller] = "Authorization: Bearer " + made->key + "\r\n";
      secrets_.push_back(made->key.substr(made->key.size() - kKeySecretDigits));
      secrets_.push_back(absl::BytesToHexString(
          {reinterpret_cast<const char*>(made->entry.hash.data()), made->entry.hash.size()}));
    };
    make(kInfer, Scope::kInfer, now);
    make(kTasks, Scope::kTasks, now);
    make(kAdmin, Scope::kAdmin, now);
    make(kExpired, Scope::kInfer, now - hours(2));
    headers_[kWrong] = headers_[kInfer];
    char& last = headers_[kWrong][headers_[kWrong].size() - 3];
    last = last == '0' ? '1' : '0';
    headers_[kBasic] = "Authorization: Basic b21uaTpvbW5p\r\n";
    headers_[kTwo] = headers_[kInfer] + headers_[kAdmin];
  }
  static std::string Request(const std::string& route, const std::string& headers) {
    std::string path = route.substr(route.find(' ') + 1);
    if (path.ends_with('*')) path.replace(path.size() - 1, 1, "small");
    if (route.starts_with("POST")) return Post(path, "{}", headers);
    std::string request = Get(path, headers);
    return request.replace(0, 3, route.substr(0, route.find(' ')));
  }
  RawAnswer Ask(const std::string& request) {
    RawClient client(door_->address());
    client.Send(request);
    // A stream that is let in does not end.
    if (request.find("/stream ") != request.npos && client.ReadUntil("\r\n\r\n") &&
        client.got().starts_with("HTTP/1.1 200")) {
      RawAnswer begun;
      begun.status = 200;
      return begun;
    }
    return client.Read().value_or(RawAnswer());
  }

  const testing::TempDir temp_ = testing::TempDir::InMemory();
  std::map<std::string, std::string> headers_;
  std::vector<std::string> secrets_;
  NoBackend backend_;
  NoStatus status_;
  std::unique_ptr<HttpDoor> door_;
};

// The feed asks the server how many connections it has.
TEST_F(HttpAccessTest, TheServerIsThereForAsLongAsTheStatusIsMade) {
  std::promise<void> reached, opened;
  std::once_flag once;
  const auto pass = opened.get_future().share();
  status_.asked = [&] {
    std::call_once(once, [&] { reached.set_value(); });
    pass.wait();
  };
  Open(false);
  const std::string address = door_->address();
  RawClient watcher(address);
  watcher.Send(Get("/v1/status/stream"));
  ASSERT_EQ(reached.get_future().wait_for(std::chrono::minutes(1)), std::future_status::ready);
  std::jthread ending([this] { door_ = nullptr; });
  bool answered = true;
  for (int i = 0; i < 200 && answered; ++i) {
    RawClient other(address);
    answered = other.Send(Get("/health")) && other.Read().has_value();
  }
  EXPECT_TRUE(answered);
  opened.set_value();
}

TEST_F(HttpAccessTest, EveryRouteIsInTheTable) {
  Open(false);
  std::set<std::string> there;
  for (const HttpRoute& route : door_->routes().all()) {
    const std::string name = std::string(route.method) + " " + route.path;
    there.insert(name);
    const auto it = kRoutes.find(name);
    ASSERT_NE(it, kRoutes.end()) << name << ": say in this test's table who may ask for it";
    EXPECT_EQ(route.needs, it->second) << name;
  }
  for (const auto& [name, needs] : kRoutes) EXPECT_TRUE(there.contains(name)) << name << " is no more";
}

TEST_F(HttpAccessTest, WithKeysEverybodyGetsWhatTheirKeySays) {
  const testing::RecordingLog log;
  Open(true);
  for (const char* caller : kCallers) {
    for (const auto& [route, needs] : kRoutes) {
      SCOPED_TRACE(std::string(caller) + " " + route);
      const RawAnswer answer = Ask(Request(route, headers_[caller]));
      const int expected = Expected(caller, needs);
      EXPECT_NE(answer.status, 0);
      EXPECT_EQ(answer.status == 401 || answer.status == 403 ? answer.status : 0, expected) << answer.body;
      if (expected == 0) continue;
      const json error = json::parse(answer.body)["error"];
      EXPECT_EQ(error["code"], expected == 401 ? json("invalid_api_key") : json(nullptr));
      EXPECT_TRUE(error["message"].is_string() && error["type"].is_string() && error.contains("param"));
      EXPECT_THAT(answer.headers.at("WWW-Authenticate"), HasSubstr("Bearer realm=\"omni\""));
      for (const std::string& secret : secrets_) EXPECT_THAT(answer.body, Not(HasSubstr(secret)));
    }
    // What there is not, is told to those who may come in.
    const int known = kKnown.contains(caller) ? 1 : 0;
    EXPECT_EQ(Ask(Get("/nothing", headers_[caller])).status, known != 0 ? 404 : 401) << caller;
    EXPECT_EQ(Ask(Get("/v1/completions", headers_[caller])).status, known != 0 ? 405 : 401) << caller;
  }
  door_ = nullptr;
  ASSERT_FALSE(log.lines().empty());
  for (const auto& line : log.lines()) {
    for (const std::string& secret : secrets_) EXPECT_THAT(line.message, Not(HasSubstr(secret)));
  }
}

TEST_F(HttpAccessTest, WithoutKeysWhoReachesItMayDoEverything) {
  Open(false);
  for (const auto& [route, needs] : kRoutes) {
    const int status = Ask(Request(route, "")).status;
    EXPECT_TRUE(status != 0 && status != 401 && status != 403) << route << " " << status;
  }
}

TEST_F(HttpAccessTest, WhoMayNotComeInIsToldSoBeforeTheBodyIsSent) {
  Open(true);
  for (const auto& [headers, status] :
       {std::pair{std::string(), 401}, {headers_[kWrong], 401}, {headers_[kTasks], 403}}) {
    RawClient client(door_->address());
    client.Send(
        "POST /v1/completions HTTP/1.1\r\nHost: any\r\nExpect: 100-continue\r\nContent-Type: "
        "application/json\r\nContent-Length: 5000000\r\n" +
        headers + "\r\n");
    const auto answer = client.Read();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->status, status);
    EXPECT_EQ(answer->headers.at("Connection"), "close");
  }
  RawClient client(door_->address());
  client.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: any\r\nExpect: 100-continue\r\nContent-Type: "
      "application/json\r\nContent-Length: 2\r\n" +
      headers_[kInfer] + "\r\n");
  EXPECT_EQ(client.Read()->status, 100);
  client.Send("{}");
  EXPECT_EQ(client.Read()->status, 400);
}

TEST_F(HttpAccessTest, AConnectionMayShowAnotherKeyWithEachRequest) {
  Open(true);
  RawClient client(door_->address());
  client.Send(Get("/metrics", headers_[kAdmin]) + Get("/metrics") + Get("/metrics", headers_[kInfer]) +
              Get("/props", headers_[kInfer]) + Get("/health"));
  for (const int status : {200, 401, 403, 200, 200}) EXPECT_EQ(client.Read()->status, status);
}

TEST_F(HttpAccessTest, WithKeysAnyNameOfTheServerWillDo) {
  Open(true);
  EXPECT_EQ(Ask("GET /props HTTP/1.1\r\nHost: gpu.example\r\n" + headers_[kInfer] + "\r\n").status, 200);
  EXPECT_EQ(Ask("GET /health HTTP/1.1\r\nHost: gpu.example\r\n\r\n").status, 200);
}

TEST_F(HttpAccessTest, APageOfAnotherSiteMayAskIfItsOriginIsNamed) {
  Open(true, {"https://chat.example", "http://localhost:3000"});
  const auto preflight = [&](const std::string& path, const std::string& origin,
                             const std::string& more = "") {
    return Ask("OPTIONS " + path + " HTTP/1.1\r\nHost: any\r\nOrigin: " + origin +
               "\r\nAccess-Control-Request-Method: POST\r\n" + more + "\r\n");
  };
  const RawAnswer may = preflight("/v1/completions", "https://chat.example",
                                  "Access-Control-Request-Headers: authorization,x-stainless-os\r\n");
  EXPECT_EQ(may.status, 204);
  EXPECT_EQ(may.headers.at("Access-Control-Allow-Origin"), "https://chat.example");
  EXPECT_EQ(may.headers.at("Access-Control-Allow-Methods"), "POST");
  EXPECT_EQ(may.headers.at("Access-Control-Allow-Headers"), "authorization,x-stainless-os");
  EXPECT_EQ(may.headers.at("Vary"), "Origin");
  EXPECT_FALSE(may.headers.contains("Access-Control-Allow-Credentials"));
  EXPECT_EQ(may.headers.at("Content-Length"), "");  // the client looked for it and there was none
  for (const char* other : {"https://chat.example.evil", "http://chat.example", "https://chat.example:443",
                            "null", "https://CHAT.example", "https://chat.example/"}) {
    const RawAnswer answer = preflight("/v1/completions", other);
    EXPECT_EQ(answer.status, 403) << other;
    EXPECT_FALSE(answer.headers.contains("Access-Control-Allow-Origin")) << other;
  }
  EXPECT_EQ(preflight("/nothing", "https://chat.example").status, 404);
  // What a page asks to send is not repeated if it is no list of names.
  EXPECT_EQ(preflight("/v1/completions", "http://localhost:3000", "Access-Control-Request-Headers: a;b\r\n")
                .headers["Access-Control-Allow-Headers"],
            "Authorization, Content-Type");
  // Answers and refusals alike can be seen by the page.
  for (const std::string& key : {headers_[kInfer], std::string()}) {
    for (const std::string& request :
         {Get("/v1/models", "Origin: https://chat.example\r\n" + key),
          Post("/v1/completions", "{}", "Origin: https://chat.example\r\n" + key)}) {
      RawAnswer answer = Ask(request);
      EXPECT_EQ(answer.headers["Access-Control-Allow-Origin"], "https://chat.example") << answer.body;
      EXPECT_EQ(answer.headers["Vary"], "Origin");
    }
  }
  EXPECT_FALSE(Ask(Get("/v1/models", "Origin: https://evil.example\r\n" + headers_[kInfer]))
                   .headers.contains("Access-Control-Allow-Origin"));
}

TEST_F(HttpAccessTest, UnlessOriginsAreNamedNoPageOfAnotherSiteMayAsk) {
  Open(false);
  const RawAnswer answer =
      Ask("OPTIONS /v1/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: https://chat.example\r\n"
          "Access-Control-Request-Method: POST\r\n\r\n");
  EXPECT_EQ(answer.status, 405);
  EXPECT_FALSE(answer.headers.contains("Access-Control-Allow-Origin"));
}

TEST(HttpGuard, AnOriginIsASchemeAHostAndPerhapsAPort) {
  for (const char* good : {"https://chat.example", "http://localhost:3000", "https://[::1]:8443"})
    EXPECT_TRUE(CheckOrigin(good).ok()) << good;
  for (const char* bad :
       {"", "*", "null", "chat.example", "https://", "https://chat.example/", "ftp://x", "https://*.example",
        "https://a.example,https://b.example", "https://Chat.example", "https://a b", "https://a\r\nX: y"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(CheckOrigin(bad))) << bad;
  }
}

TEST(HttpAddress, OffLoopbackTlsAndKeysAreWanted) {
  const auto says = [](HttpSecurity security) {
    return std::string(CheckHttpAddress("0.0.0.0:8080", security).message());
  };
  EXPECT_THAT(says({false, false}), HasSubstr("both are missing"));
  EXPECT_THAT(says({true, false}), HasSubstr("keys are missing"));
  EXPECT_THAT(says({false, true}), HasSubstr("TLS is missing"));
  EXPECT_TRUE(CheckHttpAddress("0.0.0.0:8080", {true, true}).ok());
  EXPECT_TRUE(CheckHttpAddress("[::]:8080", {true, true}).ok());
  EXPECT_TRUE(CheckHttpAddress("127.0.0.1:8080").ok());
  EXPECT_FALSE(CheckHttpAddress("nowhere", {true, true}).ok());
}

}  // namespace
}  // namespace omni
