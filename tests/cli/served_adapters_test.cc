// Adapters of a server, as those who ask it meet them: listed, answered with, and told.
#include <algorithm>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/omni_fixture.h"
#include "tests/cluster/http/raw_client.h"
#include "tests/cluster/http/raw_server.h"
#include "tests/testing/node_process.h"

namespace omni::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class ServedAdapters : public OmniServerTest {
 protected:
  static void SetUpTestSuite() {
    OmniServerTest::SetUpTestSuite();
    std::ofstream text(*dir_ / "learned.txt");
    for (int i = 0; i < 30; ++i) text << "The sea was calm and the ship was late. The captain looked at it. ";
    text.close();
    const json learned = Json(Learn({"--name", "sea"}));
    hash_ = learned["hash"];
  }
  static Output Learn(std::vector<std::string> more) {
    more.insert(more.begin(), {"adapt", *dir_ / "learned.txt", "-m", Model(), "--own-tokens", "64", "--drift",
                               "100", "--json"});
    return Omni(more);
  }
  static std::unique_ptr<NodeProcess> Start(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"-m", Model(), "--listen", "127.0.0.1:0", "-t", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    static int number = 0;
    return std::make_unique<NodeProcess>(OMNI_PROGRAM, arguments,
                                         *dir_ / ("serve" + std::to_string(number++)), -1, "serve");
  }
  static Output Sampled(std::vector<std::string> words) {
    words.insert(words.end(), {"-n", "24", "--ignore-eos", "--seed", "5", "--json"});
    return Omni(words);
  }

  inline static std::string hash_;
};

TEST_F(ServedAdapters, AreListedAndAnsweredWithByWhoeverIsAsked) {
  const auto leads = Start({"--state", *dir_ / "cluster"});
  const std::string grpc = leads->WaitForGrpcAddress();
  ASSERT_NE(grpc, "") << leads->Log();
  const std::string url = "http://" + leads->WaitForAddress();
  const json here = Json(Omni({"adapt", "list", "--json"}))["adapters"];
  ASSERT_EQ(here.size(), 1u);
  EXPECT_EQ(here[0]["hash"], hash_);
  EXPECT_GT(here[0]["bytes"], 0);
  for (const auto& [flag, where] : {std::pair("--cluster", grpc), std::pair("--server", url)}) {
    json there = Json(Omni({"adapt", "list", "--json", flag, where}))["adapters"];
    ASSERT_EQ(there.size(), 1u) << flag;
    EXPECT_FALSE(there[0].contains("bytes"));
    there[0]["bytes"] = here[0]["bytes"];
    EXPECT_EQ(there, here) << flag;
    EXPECT_THAT(Omni({"adapt", "list", flag, where}).out, HasSubstr(hash_));
  }
  const json told = {{"name", "sea"}, {"hash", hash_}};
  const json alone = Json(Sampled({"run", "zzz {} 99", "-m", Model(), "--adapter", "sea"}));
  EXPECT_EQ(alone["adapter"], told);
  EXPECT_NE(alone["text"], Json(Sampled({"run", "zzz {} 99", "-m", Model()}))["text"]);
  for (const auto& [flag, where] : {std::pair("--cluster", grpc), std::pair("--server", url)}) {
    const json served = Json(Sampled({"run", "zzz {} 99", flag, where, "--adapter", "sea"}));
    EXPECT_EQ(served["text"], alone["text"]) << flag;
    EXPECT_EQ(served["adapter"], told) << flag;
    const json plain = Json(Sampled({"run", "zzz {} 99", flag, where}));
    EXPECT_NE(plain["text"], alone["text"]);
    EXPECT_FALSE(plain.contains("adapter"));
    ExpectOneLine(Sampled({"run", "x", flag, where, "--adapter", "me"}), 1, "there is no adapter 'me'");
    // In a chat too.
    ProcessOptions typed;
    typed.stdin_text = "the sea\n";
    const Output chat = Omni({"chat", flag, where, "-n", "9", "--adapter", "sea", "--stats"}, typed);
    EXPECT_EQ(chat.exit_code, 0) << chat.err;
    EXPECT_THAT(chat.err, HasSubstr("adapter sea of hash " + hash_));
  }
  ExpectOneLine(Omni({"chat", "--server", url, "--adapter", "me"}), 1, "there is sea");

  // By a node that sends it on.
  const auto joins = Start({"--join", grpc});
  ASSERT_NE(joins->WaitForGrpcAddress(), "") << joins->Log();
  const std::string other = "http://" + joins->WaitForAddress();
  const json sent_on = Json(Sampled({"run", "zzz {} 99", "--server", other, "--adapter", "sea"}));
  EXPECT_EQ(sent_on["text"], alone["text"]);
  EXPECT_EQ(sent_on["adapter"], told);
  ExpectOneLine(Sampled({"run", "x", "--server", other, "--adapter", "me"}), 1, "there is no adapter 'me'");
  ExpectOneLine(Omni({"adapt", "list", "--server", other}), 1, "ask " + grpc);
  EXPECT_EQ(
      Json(Omni({"adapt", "list", "--cluster", joins->WaitForGrpcAddress(), "--json"}))["adapters"].size(),
      1u);

  // When it has learned more, answers tell that it is another.
  const json more = Json(Learn({"--name", "sea", "--more"}));
  ASSERT_NE(more["hash"], hash_);
  EXPECT_EQ(Json(Sampled({"run", "zzz {} 99", "--server", url, "--adapter", "sea"}))["adapter"]["hash"],
            more["hash"]);
}

TEST_F(ServedAdapters, AServerWhoseListCannotBeReadIsNotAsked) {
  RawServer other([](const std::string&) {
    const std::string body = R"({"choices": [{"text": "an answer without it"}]})";
    return std::vector<std::string>{"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " +
                                    std::to_string(body.size()) + "\r\n\r\n" + body};
  });
  const Output said = Omni({"run", "x", "--server", other.url(), "--adapter", "sea"});
  ExpectOneLine(said, 1, "cannot be read");
  EXPECT_EQ(said.out, "");
}

TEST_F(ServedAdapters, WhatCannotBeListedOrAskedForIsRefused) {
  ExpectOneLine(Omni({"adapt", "list", "--server", "http://127.0.0.1:1"}), 1, "127.0.0.1:1");
  ExpectOneLine(Omni({"run", "x", "--server", "http://127.0.0.1:1", "--adapter", "sea"}), 1, "127.0.0.1:1");
  ExpectOneLine(Omni({"adapt", "list", "--server", "http://127.0.0.1:1", "--cluster", "127.0.0.1:1"}), 2,
                "leave one out");
  ExpectOneLine(Omni({"adapt", "list", "--api-key", "x"}), 2, "without --server");
  ExpectOneLine(Omni({"adapt", "list", "--certificates", "x"}), 2, "without --cluster");
  ExpectOneLine(Omni({"adapt", "list", "--server", "http://127.0.0.1:1", "--certificates", "x"}), 2,
                "--certificates does nothing beside --server");
  ExpectOneLine(Omni({"adapt", "remove", "sea", "--server", "http://127.0.0.1:1"}), 2,
                "--server does nothing");
  ExpectOneLine(Omni({"adapt", *dir_ / "learned.txt", "--name", "x", "--server", "http://127.0.0.1:1"}), 2,
                "--server belongs to omni adapt list");
}

}  // namespace
}  // namespace omni::testing
