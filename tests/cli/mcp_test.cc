// `omni mcp` against an `omni serve`, as a client starts it: lines in, lines out.
#include <chrono>
#include <csignal>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/omni_fixture.h"
#include "tests/testing/node_process.h"

namespace omni::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class McpTest : public OmniServerTest {
 protected:
  static void SetUpTestSuite() {
    OmniServerTest::SetUpTestSuite();
    serve_ = std::make_unique<NodeProcess>(
        OMNI_PROGRAM, std::vector<std::string>{"-m", Model(), "--listen", "127.0.0.1:0", "-t", "1"},
        *dir_ / "serve", -1, "serve");
    ASSERT_NE(serve_->WaitForAddress(), "") << serve_->Log();
    grpc_ = serve_->WaitForGrpcAddress();
  }
  static void TearDownTestSuite() {
    if (serve_ != nullptr) {
      EXPECT_EQ(serve_->Interrupt(), 0) << serve_->Log();
    }
    serve_ = nullptr;
    OmniTest::TearDownTestSuite();
  }
  static json Request(const json& id, const std::string& method, json params = json::object()) {
    return {{"jsonrpc", "2.0"}, {"id", id}, {"method", method}, {"params", std::move(params)}};
  }
  static json Call(const json& id, const std::string& tool, const json& arguments) {
    return Request(id, "tools/call", {{"name", tool}, {"arguments", arguments}});
  }
  // What is said to these messages after initialize, by the id of each; on stderr there is what `warning`
  // matches.
  static std::map<json, json> Answers(const std::vector<json>& messages, const std::string& address,
                                      const ::testing::Matcher<std::string>& warning = "") {
    ProcessOptions options;
    options.stdin_text = Request(0, "initialize", {{"protocolVersion", "2025-11-25"}}).dump() + "\n";
    for (const json& message : messages) options.stdin_text += message.dump() + "\n";
    const Output output = Omni({"mcp", "--cluster", address}, options);
    EXPECT_EQ(output.exit_code, 0) << output.err;
    EXPECT_THAT(output.err, warning);
    std::map<json, json> answers;
    std::istringstream lines(output.out);
    for (std::string line; std::getline(lines, line);) {
      json answer = json::parse(line, nullptr, false);
      EXPECT_TRUE(answer.is_object()) << line;
      EXPECT_TRUE(answers.emplace(answer.value("id", json()), answer).second) << "twice: " << line;
    }
    EXPECT_EQ(answers.size(), messages.size() + 1) << output.out;
    return answers;
  }

  inline static std::unique_ptr<NodeProcess> serve_;
  inline static std::string grpc_;
};

TEST_F(McpTest, AnswersWhatItIsAskedUntilItsInputEnds) {
  const json work = {{"model", {{"prompt", "The sea"}, {"max_tokens", 4}}}};
  auto answers =
      Answers({Request("list", "tools/list"), Call(1, "generate", {{"prompt", "The sea"}, {"max_tokens", 8}}),
               Call(2, "generate", {{"prompt", "The sea"}, {"max_tokens", 8}}),
               Call(3, "submit_task", {{"work", work}, {"idempotency_key", "once"}}),
               Call(4, "get_task", {{"id", "none"}}), Request(5, "fly")},
              grpc_);
  EXPECT_EQ(answers["list"]["result"]["tools"].size(), 7u);
  EXPECT_EQ(answers[1]["result"]["structuredContent"]["tokens"], 8) << answers[1];
  EXPECT_EQ(answers[1]["result"], answers[2]["result"]);
  const std::string id = answers[3]["result"]["structuredContent"].value("id", "");
  EXPECT_EQ(id.size(), 32u) << answers[3];
  EXPECT_THAT(answers[4]["result"]["content"][0].value("text", ""), HasSubstr("NOT_FOUND: there is no task"));
  EXPECT_EQ(answers[5]["error"]["code"], -32601);
  // Another process goes on with it.
  const json watched = Answers({Call(1, "watch_task", {{"id", id}, {"after", 1}})}, grpc_)[1];
  EXPECT_EQ(watched["result"]["structuredContent"]["over"], true) << watched;
  EXPECT_EQ(watched["result"]["structuredContent"]["events"][0]["number"], 2);
}

TEST_F(McpTest, WhereNobodyAnswersTheToolsSaySo) {
  const json answer = Answers({Call(1, "list_executors", json::object())}, "127.0.0.1:1",
                              HasSubstr("nobody answers at 127.0.0.1:1"))[1];
  EXPECT_EQ(answer["result"]["isError"], true) << answer;
  EXPECT_THAT(answer["result"]["content"][0].value("text", ""), HasSubstr("127.0.0.1:1"));
}

TEST_F(McpTest, WhatIsWrongOnTheCommandLineIsSaidInALine) {
  ExpectOneLine(Omni({"mcp", "--cluster", "nowhere"}), 2, "no list of HOST:PORT");
  ExpectOneLine(Omni({"mcp", "extra"}), 2, "extra");
}

TEST_F(McpTest, AnInterruptEndsIt) {
  ProcessOptions options;
  options.stdin_stays_open = true;
  options.signal = SIGTERM;
  options.signal_after = std::chrono::milliseconds(100);
  options.limit = std::chrono::seconds(30);
  EXPECT_EQ(Omni({"mcp", "--cluster", grpc_}, options).exit_code, 0);
}

}  // namespace
}  // namespace omni::testing
