// `omni serve` as a process: it starts, answers, and ends when it is told to.
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/omni_fixture.h"
#include "tests/cluster/http/raw_client.h"
#include "tests/testing/node_process.h"

namespace omni::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

class Serve : public OmniTest {
 protected:
  std::unique_ptr<NodeProcess> Start(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"-m", Model(), "--listen", "127.0.0.1:0", "-t", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    static int number = 0;
    return std::make_unique<NodeProcess>(OMNI_PROGRAM, arguments,
                                         *dir_ / ("serve" + std::to_string(number++)), -1, "serve");
  }
};

TEST_F(Serve, AnswersWhatRunAnswersAndEndsWhenItIsTold) {
  const auto serve = Start();
  const std::string address = serve->WaitForAddress();
  ASSERT_NE(address, "") << serve->Log();
  EXPECT_THAT(serve->Log(), HasSubstr("this is no chat model"));
  const json alone = Json(Run({"the sea", "-n", "9", "--temp", "0", "--json"}));
  RawClient client(address);
  client.Send(Post("/v1/completions",
                   R"({"model": "model", "prompt": "the sea", "max_tokens": 9, "temperature": 0})"));
  const auto answer = client.Read();
  ASSERT_TRUE(answer.has_value());
  ASSERT_EQ(answer->status, 200) << answer->body;
  const json body = json::parse(answer->body);
  EXPECT_EQ(body["choices"][0]["text"], alone["text"]);
  EXPECT_EQ(body["usage"]["completion_tokens"], alone["generated_tokens"]);
  EXPECT_EQ(serve->Interrupt(), 0) << serve->Log();
  EXPECT_EQ(client.ReadToEnd(), "");
}

TEST_F(Serve, FinishesWhatRunsBeforeItEnds) {
  const auto serve = Start();
  const std::string address = serve->WaitForAddress();
  ASSERT_NE(address, "") << serve->Log();
  RawClient client(address);
  client.Send(Post("/v1/chat/completions",
                   R"({"messages": [{"role": "user", "content": "x"}], "max_tokens": 400, "stream": true})"));
  ASSERT_TRUE(client.ReadUntil("\"content\""));
  EXPECT_EQ(serve->Interrupt(), 0) << serve->Log();
  EXPECT_THAT(client.ReadToEnd(), HasSubstr("data: [DONE]"));
}

TEST_F(Serve, CutsOffWhatTakesLongerThanItHas) {
  const auto serve = Start({"--drain", "1s"});
  const std::string address = serve->WaitForAddress();
  ASSERT_NE(address, "") << serve->Log();
  RawClient client(address);
  client.Send(Post("/v1/completions",
                   R"({"prompt": "x", "max_tokens": 900000, "ignore_eos": true, "stream": true})"));
  ASSERT_TRUE(client.ReadUntil("\"text\""));
  EXPECT_EQ(serve->Interrupt(), 0) << serve->Log();
  EXPECT_THAT(client.ReadToEnd(), Not(HasSubstr("[DONE]")));
  EXPECT_THAT(serve->Log(), HasSubstr("cut off"));
}

TEST_F(Serve, ATemplateOfTheModelIsUsed) {
  const std::string path = Model() + "/chat_template.json";
  std::ofstream(path) << R"({"system": "{content}", "user": "{content}", "assistant": "{content}"})"
                      << std::flush;
  const auto serve = Start();
  const std::string address = serve->WaitForAddress();
  std::filesystem::remove(path);
  ASSERT_NE(address, "") << serve->Log();
  EXPECT_THAT(serve->Log(), Not(HasSubstr("no chat model")));
  RawClient client(address);
  client.Send(
      Post("/v1/chat/completions",
           R"({"messages": [{"role": "user", "content": "the sea"}], "max_tokens": 9, "temperature": 0})"));
  const auto answer = client.Read();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(json::parse(answer->body)["choices"][0]["message"]["content"],
            Json(Run({"the sea", "-n", "9", "--temp", "0", "--json"}))["text"]);
}

TEST_F(Serve, WhatCannotBeServedIsSaid) {
  ExpectOneLine(Omni({"serve", "-m", Model(), "--listen", "0.0.0.0:0"}), 2, "loopback only");
  ExpectOneLine(Omni({"serve", "-m", Model(), "--listen", "nonsense"}), 2,
                "--listen: 'nonsense' is no ADDRESS:PORT");
  const auto serve = Start();
  const std::string address = serve->WaitForAddress();
  ASSERT_NE(address, "") << serve->Log();
  const Output second = Omni({"serve", "-m", Model(), "--listen", address});
  EXPECT_EQ(second.exit_code, 1);
  EXPECT_THAT(second.err, HasSubstr("cannot listen on " + address));
}

}  // namespace
}  // namespace omni::testing
