// The Model Context Protocol over HTTP: sessions, streams, headers, and who may ask for what.
#include "cluster/mcp/mcp_door.h"

#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cluster/http/http_routes.h"
#include "cluster/http/http_server.h"
#include "cluster/http/openai_answer.h"
#include "tests/cluster/http/raw_client.h"
#include "tests/cluster/mcp/fake_backend.h"

namespace omni::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

constexpr char kStateless[] = "2026-07-28", kHandshake[] = "2025-11-25";

// The door's routes, asked by whoever the header Caller names, with the scopes that Scopes does.
class Handler final : public HttpHandler {
 public:
  HttpRoutes& routes() { return routes_; }
  std::shared_ptr<HttpCall> OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    HttpRoutes::Found found = routes_.Find(request.method, request.path);
    if (found.route == nullptr) {
      exchange->Answer(ErrorAnswer(found.path == nullptr ? 404 : 405, found.allowed));
      return nullptr;
    }
    const std::string caller = request.Header("caller"), scopes = request.Header("scopes");
    return found.route->handle({std::move(request), "", caller, nullptr,
                                scopes.empty() ? Scopes::All() : Scopes::Parse(scopes).value()},
                               std::move(exchange));
  }
  HttpAnswer OnRefused(int status, const std::string& why) override { return ErrorAnswer(status, why); }
  void OnDone(const HttpDone&) override {}

 private:
  HttpRoutes routes_;
};

class McpDoorTest : public ::testing::Test {
 protected:
  void Begin(McpDoorOptions options = {}) {
    options.now = [this] { return now_; };
    door_ = std::make_unique<McpDoor>(backend_, std::move(options));
    door_->AddRoutes(handler_.routes(), {false, {"https://chat.example"}});
    HttpServerOptions http;
    http.listen = "127.0.0.1:0";
    http.quiet = std::chrono::milliseconds(50);
    server_ = HttpServer::Listen(http, handler_).value();
    server_->Run();
  }
  void TearDown() override {
    server_ = nullptr;
    door_ = nullptr;
  }
  std::string Head(const std::string& method, const std::string& body) const {
    return absl::StrCat(method, " /mcp HTTP/1.1\r\nHost: ", server_->address(), "\r\n", headers_,
                        "Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n",
                        "Content-Length: ", body.size(), "\r\n\r\n", body);
  }
  RawAnswer Raw(const std::string& method, const std::string& body = "") {
    RawClient client(server_->address());
    client.Send(Head(method, body));
    return client.Read().value_or(RawAnswer());
  }
  static json Request(const json& id, const std::string& method, const json& params = json::object()) {
    return {{"jsonrpc", "2.0"}, {"id", id}, {"method", method}, {"params", params}};
  }
  json Ask(const json& message) {
    const RawAnswer answer = Raw("POST", message.dump());
    status_ = answer.status;
    return json::parse(answer.body, nullptr, false);
  }
  // Begins a session, whose header what follows has.
  std::string Introduce(const std::string& more = "") {
    headers_ = more;
    const RawAnswer answer = Raw("POST", Request(0, "initialize", {{"protocolVersion", kHandshake}}).dump());
    EXPECT_EQ(answer.status, 200) << answer.body;
    const auto id = answer.headers.find("Mcp-Session-Id");
    EXPECT_NE(id, answer.headers.end());
    headers_ = absl::StrCat(more, "Mcp-Session-Id: ", id == answer.headers.end() ? "" : id->second,
                            "\r\nMCP-Protocol-Version: ", kHandshake, "\r\n");
    return id == answer.headers.end() ? "" : id->second;
  }
  json Stateless(const json& id, const std::string& method, json params = json::object(),
                 const std::string& version = kStateless) {
    headers_ = absl::StrCat("MCP-Protocol-Version: ", version, "\r\nMcp-Method: ", method, "\r\n");
    if (method == "tools/call")
      absl::StrAppend(&headers_, "Mcp-Name: ", params["name"].get<std::string>(), "\r\n");
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = version;
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json::object();
    return Request(id, method, params);
  }
  static json Call(const std::string& prompt) {
    return {{"name", "generate"}, {"arguments", {{"prompt", prompt}}}};
  }

  FakeBackend backend_;
  Handler handler_;
  std::chrono::steady_clock::time_point now_{std::chrono::hours(1000)};
  std::unique_ptr<McpDoor> door_;
  std::unique_ptr<HttpServer> server_;
  std::string headers_;
  int status_ = 0;
};

TEST_F(McpDoorTest, ASessionIsBegunUsedAndEnded) {
  Begin();
  EXPECT_EQ(Ask(Request(1, "tools/list"))["error"]["code"], -32600);
  EXPECT_EQ(status_, 400) << "without a session";
  Introduce();
  EXPECT_EQ(Raw("POST", R"({"jsonrpc": "2.0", "method": "notifications/initialized"})").status, 202);
  EXPECT_EQ(Ask(Request(1, "tools/list"))["result"]["tools"].size(), 7u);
  EXPECT_EQ(Ask(Request(2, "tools/call", Call("abc")))["result"]["content"][0]["text"], "abc");
  EXPECT_EQ(Raw("GET").status, 405);
  const std::string of_session = headers_;
  headers_ += "Caller: ben\r\n";
  Ask(Request(3, "ping"));
  EXPECT_EQ(status_, 404) << "another's session is none";
  headers_ = of_session;
  EXPECT_EQ(Raw("DELETE").status, 204);
  Ask(Request(4, "ping"));
  EXPECT_EQ(status_, 404);
  EXPECT_EQ(Raw("DELETE").status, 404);
}

TEST_F(McpDoorTest, SessionsThatNobodyUsesGo) {
  McpDoorOptions options;
  options.own_sessions = 2;
  Begin(std::move(options));
  Introduce();
  const std::string first = headers_;
  now_ += std::chrono::seconds(1);
  Introduce();
  const std::string second = headers_;
  now_ += std::chrono::seconds(1);
  headers_ = first;
  EXPECT_EQ(Ask(Request(1, "ping"))["result"], json::object());
  now_ += std::chrono::seconds(1);
  Introduce();  // in the place of the one that was not used for longest
  headers_ = second;
  Ask(Request(1, "ping"));
  EXPECT_EQ(status_, 404);
  headers_ = first;
  Ask(Request(1, "ping"));
  EXPECT_EQ(status_, 200);
  now_ += std::chrono::hours(2);
  Introduce("Caller: anna\r\n");
  headers_ = first;
  Ask(Request(1, "ping"));
  EXPECT_EQ(status_, 404);
}

TEST_F(McpDoorTest, WhatIsToldBeforeTheAnswerComesAsAStream) {
  Begin();
  Introduce();
  json params = Call("wait");
  params["_meta"]["progressToken"] = "t";
  RawClient client(server_->address());
  client.Send(Head("POST", Request("w", "tools/call", params).dump()));
  ASSERT_TRUE(client.ReadUntil("\"progressToken\":\"t\""));
  ASSERT_TRUE(client.ReadUntil(": here"));
  Raw("POST", R"({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "w"}})");
  const RawAnswer answer = client.Read().value_or(RawAnswer());
  EXPECT_EQ(answer.headers.at("Content-Type"), "text/event-stream");
  EXPECT_THAT(answer.body, HasSubstr("event: message\ndata: {"));
  EXPECT_THAT(answer.body, ::testing::Not(HasSubstr("\"result\""))) << "it was cancelled";
}

TEST_F(McpDoorTest, EachRequestOfTheStatelessEraStandsAlone) {
  Begin();
  EXPECT_EQ(Ask(Stateless(1, "server/discover"))["result"]["supportedVersions"], json({kStateless}));
  EXPECT_EQ(Ask(Stateless(2, "tools/call", Call("ab")))["result"]["structuredContent"]["tokens"], 2);
  const auto expect = [&](const json& message, int status, int code) {
    const json answer = Ask(message);
    EXPECT_EQ(status_, status) << answer;
    EXPECT_EQ(answer["error"]["code"], code) << answer;
  };
  expect(Stateless(3, "ping"), 404, -32601);
  expect(Stateless(4, "server/discover", {}, "v9"), 400, -32022);
  json message = Stateless(5, "server/discover", {}, "v9");
  headers_ = absl::StrCat("MCP-Protocol-Version: ", kStateless, "\r\nMcp-Method: server/discover\r\n");
  expect(message, 400, -32020);
  expect(Request(6, "server/discover"), 400, -32602);
  message = Stateless(7, "tools/list");
  headers_ = absl::StrCat("MCP-Protocol-Version: ", kStateless, "\r\n");
  expect(message, 400, -32020);
  headers_ += "Mcp-Method: TOOLS/LIST\r\n";
  expect(message, 400, -32020);
  message = Stateless(8, "tools/call", Call("ab"));
  headers_ = absl::StrCat("MCP-Protocol-Version: ", kStateless,
                          "\r\nMcp-Method: tools/call\r\nMcp-Name: =?base64?Z2VuZXJhdGU=?=\r\n");
  EXPECT_EQ(Ask(message)["id"], 8);
  headers_ = absl::StrCat("MCP-Protocol-Version: ", kStateless,
                          "\r\nMcp-Method: tools/call\r\nMcp-Name: =?base64?Z2V?=\r\n");
  expect(message, 400, -32020);
}

TEST_F(McpDoorTest, WhatCannotBeUnderstoodIsRefused) {
  Begin();
  EXPECT_EQ(json::parse(Raw("POST", "{").body)["error"]["code"], -32700);
  EXPECT_EQ(Raw("POST", "[]").status, 400);
  Introduce();
  const size_t version = headers_.find(kHandshake);
  headers_.replace(version, std::string(kHandshake).size(), "1999-01-01");
  Ask(Request(1, "ping"));
  EXPECT_EQ(status_, 400);
}

TEST_F(McpDoorTest, PagesOfOtherSitesMayNotAsk) {
  Begin();
  const auto status = [&](const std::string& origin) {
    headers_ = absl::StrCat("Origin: ", origin, "\r\n");
    return Raw("POST", Request(0, "initialize").dump()).status;
  };
  EXPECT_EQ(status("https://evil.example"), 403);
  EXPECT_EQ(status("null"), 403);
  EXPECT_EQ(status("http://localhost:3000"), 200);
  EXPECT_EQ(status("https://chat.example"), 200);
  EXPECT_EQ(status("https://chat.example.evil"), 403);
}

TEST_F(McpDoorTest, AKeyHasTheToolsOfItsScopes) {
  Begin();
  Introduce("Scopes: infer\r\n");
  const json tools = Ask(Request(1, "tools/list"))["result"]["tools"];
  ASSERT_EQ(tools.size(), 1u);
  EXPECT_EQ(tools[0]["name"], "generate");
  const json refused =
      Ask(Request(2, "tools/call", {{"name", "get_task"}, {"arguments", {{"id", "x"}}}}))["result"];
  EXPECT_EQ(refused["isError"], true);
  EXPECT_THAT(refused["content"][0].value("text", ""), HasSubstr("wants a key with the scope tasks"));
  EXPECT_TRUE(backend_.asked.empty());
}

TEST_F(McpDoorTest, WhenTheServerStopsCallsEndWithWhatTheyHave) {
  Begin();
  Introduce();
  json params = Call("wait");
  params["_meta"]["progressToken"] = "t";
  RawClient client(server_->address());
  client.Send(Head("POST", Request("w", "tools/call", params).dump()));
  ASSERT_TRUE(client.ReadUntil("\"progressToken\":\"t\""));
  door_->EndAll(absl::UnavailableError("the server is shutting down"));
  EXPECT_THAT(client.Read().value_or(RawAnswer()).body, HasSubstr("\"reason\":\"cancelled\""));
  Ask(Request(1, "ping"));
  EXPECT_EQ(status_, 503);
}

}  // namespace
}  // namespace omni::testing
