// OpenAI's APIs over loopback: what clients get is what the engine alone gives.
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "cluster/http/embeddings.h"
#include "cluster/http/response_request.h"
#include "tests/cluster/http/door_fixture.h"

namespace omni {
namespace {

using nlohmann::json;
using testing::Get;
using testing::kChat;
using testing::kCompletions;
using testing::Post;
using testing::RawAnswer;
using testing::RawClient;

constexpr char kResponses[] = "/v1/responses", kEmbeddings[] = "/v1/embeddings";

class OpenAiDoorTest : public testing::HttpDoorFixture {
 protected:
  json Whole(const std::string& path, const json& body) {
    const RawAnswer answer = Ask(Post(path, body.dump()));
    EXPECT_EQ(answer.status, 200) << answer.body;
    return json::parse(answer.body, nullptr, false);
  }
  // The events of a stream of a response, whose names must be those that they say and which is all there is.
  static std::vector<json> ResponseEvents(const RawAnswer& answer) {
    EXPECT_EQ(answer.status, 200) << answer.body;
    std::vector<json> events;
    std::string_view rest = answer.body;
    for (size_t end; (end = rest.find("\n\n")) != rest.npos; rest.remove_prefix(end + 2)) {
      const std::string_view event = rest.substr(0, end);
      if (event.starts_with(':')) continue;
      const size_t data = event.find("\ndata: ");
      if (!event.starts_with("event: ") || data == event.npos) {
        ADD_FAILURE() << event;
        continue;
      }
      events.push_back(json::parse(event.substr(data + 7)));
      EXPECT_EQ(events.back()["type"], event.substr(7, data - 7));
      EXPECT_EQ(events.back()["sequence_number"], events.size() - 1);
    }
    return events;
  }
  static json ResponseBody(int seed, bool stream) {
    return {{"model", "small"},
            {"input", "say " + std::to_string(seed)},
            {"instructions", "Count."},
            {"max_output_tokens", 24},
            {"seed", seed},
            {"top_logprobs", 2},
            {"stream", stream}};
  }
  static std::string BytesOf(const json& logprobs) {
    std::string bytes;
    for (const json& token : logprobs) {
      for (const json& byte : token["bytes"]) bytes += static_cast<char>(byte.get<int>());
    }
    return bytes;
  }
  // The tokens' bytes of what the swarm itself answers.
  std::string Alone(GenerateRequest request) {
    const auto result = node_->swarm().Generate(std::move(request), nullptr);
    EXPECT_TRUE(result.ok()) << result.status();
    std::string bytes;
    for (const TokenId token : result->tokens) bytes += node_->model().tokenizer().Bytes(token);
    return bytes;
  }
};

TEST_F(OpenAiDoorTest, AResponseIsTheEnginesOwn) {
  Open();
  for (int seed = 1; seed < 4; ++seed) {
    const auto read = ReadResponse(ResponseBody(seed, false).dump(), Served(), 0,
                                   [](const std::string&) { return nullptr; });
    ASSERT_TRUE(read.ok()) << read.status();
    const std::string alone = Alone(read->generate);
    const RawAnswer whole = Ask(Post(kResponses, ResponseBody(seed, false).dump()));
    ASSERT_EQ(whole.status, 200) << whole.body;
    const json response = json::parse(whole.body);
    const json& part = response["output"][0]["content"][0];
    EXPECT_EQ(BytesOf(part["logprobs"]), alone);
    EXPECT_EQ(response["usage"]["input_tokens"], read->generate.prompt.size());
    EXPECT_EQ(response["usage"]["output_tokens"], part["logprobs"].size());

    const RawAnswer stream = Ask(Post(kResponses, ResponseBody(seed, true).dump()));
    EXPECT_EQ(stream.headers.at("Content-Type"), "text/event-stream");
    const std::vector<json> events = ResponseEvents(stream);
    ASSERT_GT(events.size(), 8u);
    EXPECT_EQ(events.front()["type"], "response.created");
    std::string text, bytes;
    for (const json& event : events) {
      if (event["type"] != "response.output_text.delta") continue;
      text += event["delta"];
      bytes += BytesOf(event["logprobs"]);
    }
    EXPECT_EQ(bytes, alone);
    const json& last = events.back()["response"];
    EXPECT_EQ(last["output"][0]["content"][0]["text"], part["text"]);
    EXPECT_EQ(text, part["text"]);
    EXPECT_EQ(last["usage"], response["usage"]);
    EXPECT_EQ(last["status"], response["status"]);
  }
}

TEST_F(OpenAiDoorTest, AStoredResponseIsReadGoneOnFromAndDeleted) {
  Open();
  const json first = Whole(kResponses, {{"input", "one"}, {"max_output_tokens", 8}, {"temperature", 0}});
  const std::string id = first["id"], path = std::string(kResponses) + "/" + id;
  EXPECT_EQ(json::parse(Ask(Get(path)).body), first);
  Error(Ask(Get(path + "?stream=true")), 400);
  const json next = {
      {"max_output_tokens", 8}, {"temperature", 0}, {"previous_response_id", id}, {"input", "two"}};
  const json second = Whole(kResponses, next);
  // The same as the whole conversation in one request.
  const json all = Whole(kResponses, {{"max_output_tokens", 8},
                                      {"temperature", 0},
                                      {"input",
                                       {{{"role", "user"}, {"content", "one"}},
                                        first["output"][0],
                                        {{"role", "user"}, {"content", "two"}}}}});
  EXPECT_EQ(second["output"][0]["content"], all["output"][0]["content"]);
  EXPECT_EQ(second["usage"], all["usage"]);

  const std::string remove = "DELETE " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n";
  EXPECT_EQ(json::parse(Ask(remove).body),
            json({{"id", id}, {"object", "response.deleted"}, {"deleted", true}}));
  Error(Ask(remove), 404);
  Error(Ask(Get(path)), 404);
  const json refused = Error(Ask(Post(kResponses, next.dump())), 404);
  EXPECT_EQ(refused["param"], "previous_response_id");
  EXPECT_EQ(refused["code"], "previous_response_not_found");

  const json unkept = Whole(kResponses, {{"input", "x"}, {"max_output_tokens", 1}, {"store", false}});
  EXPECT_EQ(unkept["store"], false);
  Error(Ask(Get(std::string(kResponses) + "/" + unkept["id"].get<std::string>())), 404);
  EXPECT_EQ(Ask(Post(path, "{}")).headers.at("Allow"), "GET, HEAD, DELETE");
}

TEST_F(OpenAiDoorTest, TheLikeliestTokensAreToldBesideTheChosen) {
  Open();
  const json chat = Whole(kChat, {{"messages", {{{"role", "user"}, {"content", "x"}}}},
                                  {"temperature", 0},
                                  {"max_tokens", 6},
                                  {"logprobs", true},
                                  {"top_logprobs", 3}});
  const json& tokens = chat["choices"][0]["logprobs"]["content"];
  ASSERT_GT(tokens.size(), 0u);
  for (const json& token : tokens) {
    const json& top = token["top_logprobs"];
    ASSERT_EQ(top.size(), 3u);
    EXPECT_EQ(top[0]["bytes"], token["bytes"]);  // without chance the likeliest is chosen
    EXPECT_EQ(top[0]["logprob"], token["logprob"]);
    EXPECT_GE(top[0]["logprob"], top[1]["logprob"]);
    EXPECT_GE(top[1]["logprob"], top[2]["logprob"]);
  }
  const json completion =
      Whole(kCompletions, {{"prompt", "x"}, {"temperature", 0}, {"max_tokens", 6}, {"logprobs", 2}});
  const json& logprobs = completion["choices"][0]["logprobs"];
  ASSERT_GT(logprobs["tokens"].size(), 0u);
  for (size_t i = 0; i < logprobs["tokens"].size(); ++i) {
    EXPECT_EQ(logprobs["top_logprobs"][i].size(), 2u);
    EXPECT_TRUE(logprobs["top_logprobs"][i].contains(logprobs["tokens"][i].get<std::string>()));
  }
}

TEST_F(OpenAiDoorTest, EveryChoiceIsWhatItsSeedGives) {
  Open();
  json body = json::parse(ChatBody(3, false));
  body["n"] = 3;
  const auto read = ReadChat(body.dump(), Served(), 0);
  ASSERT_TRUE(read.ok()) << read.status();
  std::vector<std::string> alone;
  for (const GenerateRequest& choice : read->choices) alone.push_back(Alone(choice));
  EXPECT_NE(alone[0], alone[1]);
  const json whole = Whole(kChat, body);
  ASSERT_EQ(whole["choices"].size(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(BytesOf(whole["choices"][i]["logprobs"]["content"]), alone[i]) << i;
  EXPECT_EQ(whole["usage"]["prompt_tokens"], read->choices[0].prompt.size());

  body["stream"] = true;
  std::vector<std::string> streamed(3);
  int ends = 0;
  for (const json& event : Events(Ask(Post(kChat, body.dump())))) {
    const json& choice = event["choices"][0];
    ends += choice["finish_reason"].is_null() ? 0 : 1;
    if (!choice["logprobs"].is_null()) streamed.at(choice["index"]) += BytesOf(choice["logprobs"]["content"]);
  }
  EXPECT_EQ(streamed, alone);
  EXPECT_EQ(ends, 3);
}

TEST_F(OpenAiDoorTest, ChoicesThatFindNoPlaceWaitForOthersOfTheirAnswer) {
  SwarmOptions swarm;
  swarm.coordinator.max_active = 1;
  swarm.coordinator.max_queued = 1;
  Open(swarm);
  const json answer =
      Whole(kCompletions, {{"prompt", {"a", "b"}}, {"n", 10}, {"max_tokens", 4}, {"seed", 1}});
  ASSERT_EQ(answer["choices"].size(), 20u);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(answer["choices"][i]["index"], i);
}

TEST_F(OpenAiDoorTest, AnEmbeddingIsTheEnginesOwn) {
  Open();
  json body = {{"input", json::array()}};
  for (int i = 0; i < 40; ++i) body["input"].push_back("text " + std::to_string(i));
  const auto read = ReadEmbeddings(body.dump(), Served());
  ASSERT_TRUE(read.ok()) << read.status();
  const json answer = Whole(kEmbeddings, body);
  ASSERT_EQ(answer["data"].size(), 40u);
  for (int i = 0; i < 40; ++i) {
    const auto alone = node_->swarm().Generate(read->texts[i], nullptr);
    ASSERT_TRUE(alone.ok()) << alone.status();
    EXPECT_GT(alone->embedding.size(), 0u);
    EXPECT_EQ(answer["data"][i]["index"], i);
    EXPECT_EQ(answer["data"][i]["embedding"].get<std::vector<float>>(), alone->embedding) << i;
  }
  EXPECT_EQ(answer["usage"]["prompt_tokens"], read->prompt_tokens);
  EXPECT_EQ(Error(Ask(Post(kEmbeddings, R"({"input": "x", "dimensions": 2})")), 400)["param"], "dimensions");
}

}  // namespace
}  // namespace omni
