// /v1/memory, and answers with a memory, over HTTP.
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cluster/memory_doors.h"
#include "tests/cluster/http/door_fixture.h"

namespace omni::testing {
namespace {

using ::testing::HasSubstr;

class MemoryDoorTest : public HttpDoorFixture {
 protected:
  void SetUp() override {
    MemoryServiceOptions options;
    options.serving = [this] { return serving_; };
    options.elsewhere = [] { return std::string(); };
    auto doors = MemoryDoors::Make(std::move(options), temp_ / "memory");
    ASSERT_TRUE(doors.ok()) << doors.status();
    doors_ = *std::move(doors);
    behind_.extensions = {&doors_->http()};
    SwarmOptions swarm;
    swarm.memories = doors_->memory();
    Open(swarm);
    backend_->memories = doors_->memory();
  }
  void TearDown() override {
    HttpDoorFixture::TearDown();
    doors_ = nullptr;
  }
  RawAnswer Post(const std::string& path, const std::string& body) { return Ask(testing::Post(path, body)); }
  json Good(const std::string& path, const json& body) {
    const RawAnswer answer = Post(path, body.dump());
    EXPECT_EQ(answer.status, 200) << answer.body;
    return json::parse(answer.body, nullptr, false);
  }

  json Scopes() {
    return json::parse(Ask("GET /v1/memory HTTP/1.1\r\nHost: localhost\r\n\r\n").body)["scopes"];
  }

  absl::Status serving_;
  std::unique_ptr<MemoryDoors> doors_;
};

TEST_F(MemoryDoorTest, RemembersAndForgets) {
  EXPECT_EQ(Scopes(), json::array());
  EXPECT_EQ(Good("/v1/memory", {{"scope", "s"}, {"key", "the captain's name"}, {"value", "Ahab"}})["added"],
            1);
  EXPECT_EQ(Good("/v1/memory", {{"scope", "s"},
                                {"associations",
                                 {{{"key", "one thing"}, {"value", "1"}},
                                  {{"key", "another matter"}, {"value", "2"}}}}})["added"],
            2);
  const json got = Good("/v1/memory/ask", {{"scope", "s"}, {"key", "The captain's NAME"}});
  EXPECT_EQ(got["value"], "Ahab");
  EXPECT_EQ(got["votes"], 64);
  EXPECT_EQ(Good("/v1/memory/ask", {{"key", "the captain's name"}})["value"], nullptr);
  const json scopes = Scopes();
  ASSERT_EQ(scopes.size(), 1u);
  EXPECT_EQ(scopes[0]["scope"], "s");
  EXPECT_EQ(scopes[0]["keys"], 3);
  EXPECT_EQ(Good("/v1/memory/forget", {{"scope", "s"}, {"key", "one thing"}})["forgotten"], 1);
  EXPECT_EQ(Good("/v1/memory/forget", {{"scope", "s"}, {"all", true}})["forgotten"], 2);
  EXPECT_EQ(Good("/v1/memory/ask", {{"scope", "s"}, {"key", "the captain's name"}})["value"], nullptr);
}

TEST_F(MemoryDoorTest, WhatIsWrongIsSaid) {
  const auto refused = [&](const std::string& path, const std::string& body, const std::string& param,
                           const std::string& why) {
    const json error = Error(Post(path, body), 400);
    EXPECT_TRUE(param.empty() || error["param"] == param) << error;
    EXPECT_THAT(error["message"].get<std::string>(), HasSubstr(why)) << body;
  };
  refused("/v1/memory", "{", "", "JSON");
  refused("/v1/memory", "[]", "", "");
  refused("/v1/memory", "{}", "key", "'key' is missing");
  refused("/v1/memory", R"({"key": "x"})", "value", "'value' is missing");
  refused("/v1/memory", R"({"key": 1, "value": "x"})", "key", "");
  refused("/v1/memory", R"({"key": "?", "value": "x"})", "", "has no letter and no digit");
  refused("/v1/memory", R"({"scope": "a b", "key": "x", "value": "x"})", "", "memory scope 'a b'");
  refused("/v1/memory", R"({"associations": []})", "associations", "1 to 1000");
  refused("/v1/memory", R"({"associations": [{"key": "x"}]})", "associations", "number 0 is none");
  refused("/v1/memory", R"({"associations": [7]})", "associations", "number 0 is none");
  refused("/v1/memory", R"({"key": "x", "associations": [{"key": "x", "value": "y"}]})", "associations",
          "leave those out");
  refused("/v1/memory/ask", "{}", "key", "'key' is missing");
  refused("/v1/memory/forget", R"({"scope": "s"})", "key", "give one of them");
  refused("/v1/memory/forget", R"({"scope": "s", "key": "x", "all": true})", "key", "give one of them");
  serving_ = absl::UnavailableError("this node does not coordinate");
  EXPECT_EQ(Post("/v1/memory/ask", R"({"key": "x"})").status, 503);
  EXPECT_EQ(Ask("PUT /v1/memory HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").status, 405);
}

TEST_F(MemoryDoorTest, AnAnswerTellsWhatItsMemorySaid) {
  Good("/v1/memory", {{"scope", "s"}, {"key", "something that nobody asks about"}, {"value", "x"}});
  json body = {{"model", "small"},
               {"prompt", "say"},
               {"max_tokens", 40},
               {"seed", 3},
               {"temperature", 2},
               {"logprobs", 1},
               {"perspectives", "far,use=majority,every=1,tau=0"},
               {"ignore_eos", true}};
  const json without = Good(kCompletions, body)["choices"][0];
  EXPECT_FALSE(without.contains("memory"));
  body["memory"] = "s";
  const json with = Good(kCompletions, body)["choices"][0];
  EXPECT_EQ(with["text"], without["text"]);
  const int uncertain = with["confidence"]["uncertain"];
  EXPECT_GT(uncertain, 0);
  EXPECT_EQ(with["memory"], json({{"asked", uncertain}, {"recalled", 0}}));
  int asked = 0;
  for (const json& note : with["logprobs"]["token_notes"]) asked += note.contains("memory");
  EXPECT_EQ(asked, uncertain);
  body["memory"] = "t";
  EXPECT_THAT(Error(Post(kCompletions, body.dump()), 400)["message"].get<std::string>(),
              HasSubstr("nothing is remembered in it"));
  body["memory"] = "s";
  body.erase("perspectives");
  EXPECT_THAT(Error(Post(kCompletions, body.dump()), 400)["message"].get<std::string>(),
              HasSubstr("use=majority"));
}

}  // namespace
}  // namespace omni::testing
