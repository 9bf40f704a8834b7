// The Model Context Protocol over lines, in both of its eras.
#include "cluster/mcp/mcp_stdio.h"

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cluster/mcp/fake_backend.h"

namespace omni::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class McpStdioTest : public ::testing::Test {
 protected:
  void Begin(size_t most_calls = 64) {
    server_ = std::make_unique<McpServer>(backend_, McpServerOptions{"1.2", most_calls});
    session_ = std::make_unique<McpStdio>(*server_, [this](const std::string& line) {
      const std::lock_guard lock(mutex_);
      EXPECT_EQ(line.find('\n'), line.npos);
      lines_.push_back(json::parse(line, nullptr, false));
      came_.notify_all();
    });
  }
  void TearDown() override {
    session_ = nullptr;
    server_ = nullptr;
  }
  void Say(const json& message) { session_->OnLine(message.dump()); }
  // The next line that was written.
  json Next() {
    std::unique_lock lock(mutex_);
    if (!came_.wait_for(lock, std::chrono::minutes(1), [this] { return read_ < lines_.size(); })) {
      ADD_FAILURE() << "nothing was written";
      return nullptr;
    }
    return lines_[read_++];
  }
  static json Request(const json& id, const std::string& method, const json& params = json::object()) {
    return {{"jsonrpc", "2.0"}, {"id", id}, {"method", method}, {"params", params}};
  }
  static json Stateless(json params = json::object(), const std::string& version = "2026-07-28") {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = version;
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json::object();
    return params;
  }
  json Ask(const json& id, const std::string& method, const json& params = json::object()) {
    Say(Request(id, method, params));
    return Next();
  }
  void Introduce() {
    Begin();
    const json told = Ask(0, "initialize", {{"protocolVersion", "2025-11-25"}});
    ASSERT_EQ(told["result"]["protocolVersion"], "2025-11-25") << told;
    Say({{"jsonrpc", "2.0"}, {"method", "notifications/initialized"}});
  }
  static json Call(const std::string& tool, const json& arguments) {
    return {{"name", tool}, {"arguments", arguments}};
  }

  FakeBackend backend_;
  std::unique_ptr<McpServer> server_;
  std::unique_ptr<McpStdio> session_;
  std::mutex mutex_;
  std::condition_variable came_;
  std::vector<json> lines_;
  size_t read_ = 0;
};

TEST_F(McpStdioTest, IntroducesItselfInTheVersionThatIsAskedForOrItsOwn) {
  Begin();
  EXPECT_EQ(Ask(1, "tools/list")["error"]["code"], -32600) << "before initialize";
  EXPECT_EQ(Ask("p", "ping")["result"], json::object());
  const json told = Ask(2, "initialize", {{"protocolVersion", "2025-06-18"}});
  EXPECT_EQ(told["id"], 2);
  EXPECT_EQ(told["result"]["protocolVersion"], "2025-06-18");
  EXPECT_EQ(told["result"]["serverInfo"]["version"], "1.2");
  EXPECT_TRUE(told["result"]["capabilities"].contains("tools"));
  EXPECT_FALSE(told["result"].contains("resultType"));
  EXPECT_EQ(Ask(3, "initialize", {{"protocolVersion", "1999-01-01"}})["result"]["protocolVersion"],
            "2025-11-25");
}

TEST_F(McpStdioTest, ListsToolsWithTheirArguments) {
  Introduce();
  const json tools = Ask("a", "tools/list")["result"]["tools"];
  std::vector<std::string> names;
  for (const json& tool : tools) {
    names.push_back(tool["name"]);
    EXPECT_EQ(tool["inputSchema"]["type"], "object");
    EXPECT_NE(tool["description"], "");
  }
  EXPECT_EQ(names, (std::vector<std::string>{"generate", "submit_task", "watch_task", "get_task",
                                             "list_tasks", "cancel_task", "list_executors"}));
  EXPECT_EQ(Ask("b", "tools/list", {{"cursor", "x"}})["error"]["code"], -32602);
}

TEST_F(McpStdioTest, EachRequestOfTheStatelessEraSaysWhatItIsOf) {
  Begin();
  const json discovered = Ask(1, "server/discover", Stateless())["result"];
  EXPECT_EQ(discovered["supportedVersions"], json({"2026-07-28"}));
  EXPECT_EQ(discovered["resultType"], "complete");
  EXPECT_EQ(discovered["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "omni");
  EXPECT_EQ(discovered["cacheScope"], "private");
  EXPECT_GT(discovered["ttlMs"].get<int>(), 0);
  EXPECT_EQ(Ask(2, "tools/list", Stateless())["result"]["resultType"], "complete");
  const json unknown = Ask(3, "tools/list", Stateless({}, "v9"))["error"];
  EXPECT_EQ(unknown["code"], -32022);
  EXPECT_EQ(unknown["data"], (json{{"supported", {"2026-07-28"}}, {"requested", "v9"}}));
  EXPECT_EQ(Ask(4, "server/discover")["error"]["code"], -32602);
  json lacks = Stateless();
  lacks["_meta"].erase("io.modelcontextprotocol/clientCapabilities");
  EXPECT_EQ(Ask(5, "tools/list", lacks)["error"]["code"], -32602);
  for (const char* removed : {"initialize", "ping", "logging/setLevel"})
    EXPECT_EQ(Ask(6, removed, Stateless())["error"]["code"], -32601) << removed;
  const json called = Ask(7, "tools/call", Stateless(Call("generate", {{"prompt", "abc"}})))["result"];
  EXPECT_EQ(called["content"][0], (json{{"type", "text"}, {"text", "abc"}}));
  EXPECT_EQ(called["resultType"], "complete");
}

TEST_F(McpStdioTest, GeneratesAndTellsHowFarItIs) {
  Introduce();
  json params = Call("generate", {{"prompt", "abc"}, {"max_tokens", 10}});
  params["_meta"]["progressToken"] = "t";
  Say(Request(1, "tools/call", params));
  const json progress = Next();
  EXPECT_EQ(progress["method"], "notifications/progress");
  EXPECT_EQ(progress["params"],
            (json{{"progressToken", "t"}, {"progress", 1.0}, {"total", 10.0}, {"message", "a"}}));
  json last = Next();
  while (last.contains("method")) last = Next();
  EXPECT_EQ(last["result"]["structuredContent"],
            (json{{"text", "abc"}, {"reason", "length"}, {"prompt_tokens", 0}, {"tokens", 3}}));
  EXPECT_FALSE(last["result"].contains("isError"));
}

TEST_F(McpStdioTest, WhatGoesWrongInAToolIsItsResultAndWhatIsNoCallAnError) {
  Introduce();
  const auto failure = [&](const std::string& tool, const json& arguments) {
    const json result = Ask(1, "tools/call", Call(tool, arguments))["result"];
    EXPECT_EQ(result.value("isError", false), true) << result;
    EXPECT_FALSE(result.contains("structuredContent"));
    return result["content"][0].value("text", "");
  };
  EXPECT_EQ(failure("generate", {{"prompt", "fail"}}), "UNAVAILABLE: nobody is there");
  EXPECT_THAT(failure("generate", json::object()), HasSubstr("prompt is missing"));
  EXPECT_THAT(failure("generate", {{"prompt", 1}}), HasSubstr("prompt is no text"));
  EXPECT_THAT(failure("generate", {{"prompt", "a"}, {"max_tokens", 0}}), HasSubstr("max_tokens"));
  EXPECT_THAT(failure("generate", {{"prompt", "a"}, {"max_tokens", 1.5}}), HasSubstr("max_tokens"));
  EXPECT_THAT(failure("generate", {{"prompt", "a"}, {"temperature", -1}}), HasSubstr("temperature"));
  EXPECT_THAT(failure("generate", {{"prompt", "a"}, {"speed", 1}}), HasSubstr("no argument 'speed'"));
  EXPECT_THAT(failure("get_task", {{"id", "x"}}), HasSubstr("NOT_FOUND: there is no task 'x'"));
  const auto code = [&](const json& params) { return Ask(2, "tools/call", params)["error"]["code"]; };
  EXPECT_EQ(code(Call("fly", json::object())), -32602);
  EXPECT_EQ(code({{"name", 1}}), -32602);
  EXPECT_EQ(code({{"name", "generate"}, {"arguments", {1}}}), -32602);
  EXPECT_EQ(Ask(3, "resources/list")["error"]["code"], -32601);
}

TEST_F(McpStdioTest, AnIdMayBeUsedAgainOnceItsAnswerIsThere) {
  Introduce();
  for (int i = 0; i < 500; ++i) {
    const json answer = Ask(1, "tools/call", Call("generate", {{"prompt", "a"}}));
    ASSERT_TRUE(answer.contains("result")) << "the " << i << ". time: " << answer;
  }
}

TEST_F(McpStdioTest, HandsInWatchesAndCancelsTasks) {
  backend_.answers = {
      {"SubmitTask", R"({"task": {"id": "t1", "status": "QUEUED", "last_event": "1"}, "existed": true})"},
      {"GetTask", R"({"id": "t1", "status": "SUCCEEDED", "last_event": "3", "result": "YWI="})"},
      {"ListTasks", R"({"tasks": [{"id": "t1", "last_event": "3"}], "next_page_token": "n"})"},
      {"CancelTask", R"({"id": "t1", "status": "CANCELLED"})"},
      {"ListExecutors", R"({"executors": []})"}};
  backend_.events = {{.number = 1},
                     {.number = 2, .name = "text", .data = "ab"},
                     {.number = 3, .name = "text", .data = "\xff"}};
  Introduce();
  const auto call = [&](const std::string& tool, const json& arguments) {
    return Ask(1, "tools/call", Call(tool, arguments))["result"]["structuredContent"];
  };
  const json work = {{"model", {{"prompt", "sea"}}}};
  const json submitted = call("submit_task", {{"work", work}, {"idempotency_key", "k"}, {"priority", 3}});
  EXPECT_EQ(submitted["id"], "t1");
  EXPECT_EQ(submitted["existed"], true);
  EXPECT_EQ(submitted["last_event"], 1);
  EXPECT_EQ(json::parse(backend_.asked.back().second),
            (json{{"spec", {{"work", work}, {"priority", 3}}}, {"idempotency_key", "k"}}));
  const json watched = call("watch_task", {{"id", "t1"}, {"after", 1}});
  EXPECT_EQ(watched["last"], 3);
  EXPECT_EQ(watched["over"], true);
  ASSERT_EQ(watched["events"].size(), 2u) << watched;
  EXPECT_EQ(watched["events"][0]["data"], "ab");
  EXPECT_EQ(watched["events"][1]["data_base64"], "/w==");
  EXPECT_FALSE(watched["events"][1].contains("node"));
  EXPECT_EQ(call("get_task", {{"id", "t1"}})["result"], "ab");
  EXPECT_EQ(call("list_tasks", {{"statuses", {"failed"}}})["tasks"][0]["last_event"], 3);
  EXPECT_EQ(json::parse(backend_.asked.back().second), (json{{"page_size", 50}, {"statuses", {"FAILED"}}}));
  EXPECT_EQ(call("cancel_task", {{"id", "t1"}})["status"], "CANCELLED");
  EXPECT_TRUE(call("list_executors", json::object()).contains("executors"));
}

TEST_F(McpStdioTest, WatchingEndsWithItsTimeAndSaysWhereToGoOn) {
  backend_.answers = {{"GetTask", R"({"id": "t1", "status": "RUNNING", "last_event": "2"})"}};
  backend_.events = {{.number = 1}, {.number = 2}};
  backend_.ends = false;
  Introduce();
  const json watched = Ask(1, "tools/call", Call("watch_task", {{"id", "t1"}, {"wait_seconds", 1}}));
  EXPECT_EQ(watched["result"]["structuredContent"]["last"], 2) << watched;
  EXPECT_EQ(watched["result"]["structuredContent"]["over"], false);
}

TEST_F(McpStdioTest, ACancelledCallIsStoppedAndNotAnswered) {
  Introduce();
  json params = Call("generate", {{"prompt", "wait"}});
  params["_meta"]["progressToken"] = 5;
  Say(Request("w", "tools/call", params));
  EXPECT_EQ(Next()["params"]["progressToken"], 5);
  EXPECT_EQ(session_->under_way(), 1u);
  EXPECT_EQ(Ask("w", "ping")["error"]["code"], -32600) << "that id is under way";
  Say({{"jsonrpc", "2.0"}, {"method", "notifications/cancelled"}, {"params", {{"requestId", "w"}}}});
  EXPECT_EQ(session_->under_way(), 0u);
  // Its thread is free again, and what comes next is of the next request.
  EXPECT_EQ(Ask("n", "tools/call", Call("generate", {{"prompt", "ab"}}))["id"], "n");
  Say({{"jsonrpc", "2.0"}, {"method", "notifications/cancelled"}, {"params", {{"requestId", "none"}}}});
  Say({{"jsonrpc", "2.0"}, {"method", "notifications/cancelled"}});
}

TEST_F(McpStdioTest, MoreCallsThanMayBeUnderWayAreRefused) {
  Begin(1);
  Ask(0, "initialize", {{"protocolVersion", "2025-11-25"}});
  json params = Call("generate", {{"prompt", "wait"}});
  params["_meta"]["progressToken"] = 1;
  Say(Request(1, "tools/call", params));
  Next();
  EXPECT_EQ(Ask(2, "tools/call", Call("generate", {{"prompt", "a"}}))["error"]["code"], -32000);
  server_->StopCalls();
  EXPECT_EQ(Next()["result"]["structuredContent"]["reason"], "cancelled");
}

TEST_F(McpStdioTest, NoCallBeginsOnceTheCallsAreStopped) {
  Introduce();
  server_->StopCalls();
  const json answer = Ask(1, "tools/call", Call("generate", {{"prompt", "wait"}}));
  EXPECT_EQ(answer["error"]["message"], "the server ends") << answer;
}

TEST_F(McpStdioTest, WhatIsNoMessageIsSaidToBeNone) {
  Introduce();
  const auto code = [&](const std::string& line) {
    session_->OnLine(line);
    return Next()["error"]["code"];
  };
  EXPECT_EQ(code("{"), -32700);
  EXPECT_EQ(code(std::string(100, '[')), -32700);
  EXPECT_EQ(code("[]"), -32600);
  EXPECT_EQ(code("1"), -32600);
  EXPECT_EQ(code(R"({"id": 1, "method": "ping"})"), -32600);
  EXPECT_EQ(code(R"({"jsonrpc": "2.0", "id": null, "method": "ping"})"), -32600);
  EXPECT_EQ(code(R"({"jsonrpc": "2.0", "id": 1.5, "method": "ping"})"), -32600);
  EXPECT_EQ(code(R"({"jsonrpc": "2.0", "id": 1, "method": 2})"), -32600);
  EXPECT_EQ(code(R"({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": [1]})"), -32602);
  session_->OnLongLine();
  EXPECT_EQ(Next()["error"]["code"], -32700);
  // These want no answer.
  session_->OnLine("  ");
  session_->OnLine(R"({"jsonrpc": "2.0", "method": "notifications/anything"})");
  session_->OnLine(R"({"jsonrpc": "2.0", "id": 9, "result": {}})");
  EXPECT_EQ(Ask("last", "ping")["id"], "last");
}

}  // namespace
}  // namespace omni::testing
