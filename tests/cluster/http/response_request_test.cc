#include "cluster/http/response_request.h"

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/text/prompt.h"
#include "tests/cluster/http/request_fixture.h"

namespace omni {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;

class ResponseRequestTest : public testing::RequestTest {
 protected:
  ResponseRequestTest() { model_.max_context = 1000; }
  absl::StatusOr<ResponseRequest> Read(const std::string& body) {
    return ReadResponse(
        body, model_, 7, [this](const std::string& id) -> std::shared_ptr<const std::vector<ChatMessage>> {
          const auto it = stored_.find(id);
          return it == stored_.end() ? nullptr : std::make_shared<const std::vector<ChatMessage>>(it->second);
        });
  }
  absl::StatusOr<ResponseRequest> ReadWith(const std::string& fields) {
    return Read(R"({"input": "x", )" + fields + "}");
  }
  // "role: content" of each message of an input.
  std::vector<std::string> Messages(const std::string& input) {
    const auto read = Read(R"({"input": )" + input + "}");
    EXPECT_TRUE(read.ok()) << read.status();
    std::vector<std::string> said;
    if (!read.ok()) return said;
    for (const ChatMessage& message : read->messages) said.push_back(message.role + ": " + message.content);
    return said;
  }
  std::string Prompt(const ResponseRequest& request) { return tokenizer_.Decode(request.generate.prompt); }
  std::string PromptOf(const std::string& text) { return tokenizer_.Decode(PromptTokens(tokenizer_, text)); }

  std::map<std::string, std::vector<ChatMessage>> stored_;
};

TEST_F(ResponseRequestTest, ATextHasOpenAisDefaults) {
  const auto read = Read(R"({"model": "mini", "input": "the sea"})");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(read->store);
  EXPECT_FALSE(read->stream || read->logprobs || read->bounded);
  EXPECT_EQ(read->generate.max_tokens, kChatTokens);
  EXPECT_EQ(read->generate.sampler.temperature, 1);
  EXPECT_EQ(read->generate.sampler.seed, 7u);
  EXPECT_THAT(read->generate.stops, ElementsAre("\nUser:"));
  EXPECT_EQ(Prompt(*read), PromptOf("User: the sea\nAssistant:"));
  EXPECT_EQ(read->echo, json({{"instructions", nullptr},
                              {"max_output_tokens", nullptr},
                              {"metadata", json::object()},
                              {"parallel_tool_calls", true},
                              {"previous_response_id", nullptr},
                              {"temperature", 1},
                              {"tool_choice", "auto"},
                              {"top_logprobs", 0},
                              {"top_p", 1}}));
}

TEST_F(ResponseRequestTest, EverySettingArrives) {
  const auto read = ReadWith(R"("instructions": "Be brief.", "max_output_tokens": 5, "temperature": 0,
      "top_p": 0.5, "top_k": 3, "seed": 9, "stop": "z", "stream": true, "store": false, "top_logprobs": 2,
      "metadata": {"a": "b"}, "parallel_tool_calls": false, "tool_choice": "none", "truncation": "disabled",
      "tools": [{"type": "function", "name": "f", "parameters": {}}, {"type": "new_kind"}],
      "include": ["reasoning.encrypted_content"], "reasoning": {"effort": "high"},
      "text": {"verbosity": "low"},
      "prompt_cache_key": "k", "service_tier": "auto", "client_metadata": {}, "background": false,
      "stream_options": {"include_obfuscation": false}, "user": "u")");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(read->stream && read->bounded && read->logprobs);
  EXPECT_FALSE(read->store);
  EXPECT_EQ(read->generate.max_tokens, 5);
  EXPECT_EQ(read->generate.alternatives, 2);
  EXPECT_EQ(read->generate.sampler.temperature, 0);
  EXPECT_EQ(read->generate.sampler.top_p, 0.5f);
  EXPECT_EQ(read->generate.sampler.top_k, 3);
  EXPECT_EQ(read->generate.sampler.seed, 9u);
  EXPECT_THAT(read->generate.stops, ElementsAre("z", "\nUser:"));
  EXPECT_EQ(Prompt(*read), PromptOf("Be brief.\n\nUser: x\nAssistant:"));
  EXPECT_EQ(read->echo["instructions"], "Be brief.");
  EXPECT_EQ(read->echo["max_output_tokens"], 5);
  EXPECT_EQ(read->echo["metadata"], json({{"a", "b"}}));
  EXPECT_EQ(read->echo["tool_choice"], "none");
  EXPECT_TRUE(ReadWith(R"("include": ["message.output_text.logprobs"])")->logprobs);
}

TEST_F(ResponseRequestTest, AnEmptyInputIsAnswered) {
  for (const char* input : {"\"\"", "[]", R"([{"role": "user", "content": ""}])"}) {
    const auto read = Read(R"({"max_output_tokens": 1, "input": )" + std::string(input) + "}");
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_GE(read->generate.prompt.size(), 1u);
    EXPECT_EQ(read->generate.max_tokens, 1);
  }
}

TEST_F(ResponseRequestTest, WhatCanBeReadAsTextIs) {
  EXPECT_THAT(Messages(R"([
      {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be "},
                                                           {"type": "input_text", "text": "brief."}]},
      {"role": "user", "content": "hello"},
      {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "AA"},
      {"type": "function_call", "name": "shell", "arguments": "{\"command\":1}", "call_id": "c"},
      {"type": "function_call_output", "call_id": "c", "output": "done"},
      {"type": "custom_tool_call", "name": "patch", "input": "+a", "call_id": "d"},
      {"type": "custom_tool_call_output", "call_id": "d",
       "output": [{"type": "input_text", "text": "ok"}]},
      {"type": "function_call_output", "call_id": "e", "output": [{"type": "input_image", "image_url": "u"}]},
      {"type": "web_search_call", "id": "w"}, {"type": "something_new", "deep": [[[1]]]},
      {"type": "message", "role": "assistant", "id": "m", "status": "completed",
       "content": [{"type": "output_text", "text": "yes", "annotations": []},
                   {"type": "refusal", "refusal": "no"}]},
      {"role": "system", "content": []}])"),
              ElementsAre("system: Be brief.", "user: hello", "assistant: shell({\"command\":1})",
                          "tool: done", "assistant: patch(+a)", "tool: ok", "assistant: yesno", "system: "));
}

TEST_F(ResponseRequestTest, WhatIsNoTextInAMessageIsNamed) {
  for (const auto& [input, param] : std::vector<std::pair<std::string, std::string>>{
           {"3", "input"},
           {"{}", "input"},
           {"[3]", "input[0]"},
           {R"([{"role": "user", "content": "x"}, {}])", "input[1].type"},
           {R"([{"type": 3}])", "input[0].type"},
           {R"([{"type": "mesage", "role": "user", "content": "x"}])", "input[0].type"},
           {R"([{"type": "message", "content": "x"}])", "input[0].role"},
           {R"([{"role": "king", "content": "x"}])", "input[0].role"},
           {R"([{"role": "user"}])", "input[0].content"},
           {R"([{"role": "user", "content": null}])", "input[0].content"},
           {R"([{"role": "user", "content": [{"type": "input_text", "text": "a"},
               {"type": "input_image", "image_url": "data:"}]}])",
            "input[0].content[1]"},
           {R"([{"role": "user", "content": [{"type": "input_text"}]}])", "input[0].content[0]"},
           {R"([{"role": "user", "content": ["x"]}])", "input[0].content[0]"}}) {
    ExpectBad(Read(R"({"input": )" + input + "}").status(), param, "'input");
  }
  const auto reference = Read(R"({"input": [{"type": "item_reference", "id": "msg_1"}]})");
  EXPECT_TRUE(absl::IsNotFound(reference.status())) << reference.status();
}

TEST_F(ResponseRequestTest, WhatIsWrongIsNamed) {
  for (const auto& [fields, param] : std::vector<std::pair<std::string, std::string>>{
           {R"("max_output_tokens": 0)", "max_output_tokens"},
           {R"("temperature": -1)", "temperature"},
           {R"("stream": "yes")", "stream"},
           {R"("store": 1)", "store"},
           {R"("instructions": [])", "instructions"},
           {R"("top_logprobs": 21)", "top_logprobs"},
           {R"("top_logprobs": 20, "max_output_tokens": 6242)", "max_output_tokens"},
           {R"("top_logprobs": 1, "max_output_tokens": 1000000, "stream": true)", "max_output_tokens"},
           {R"("tools": {})", "tools"},
           {R"("tool_choice": "required")", "tool_choice"},
           {R"("tool_choice": {"type": "function", "name": "f"})", "tool_choice"},
           {R"("tool_choice": {"type": "allowed_tools", "mode": "required"})", "tool_choice"},
           {R"("parallel_tool_calls": 1)", "parallel_tool_calls"},
           {R"("background": true)", "background"},
           {R"("conversation": "conv_1")", "conversation"},
           {R"("prompt": {"id": "p"})", "prompt"},
           {R"("truncation": "auto")", "truncation"},
           {R"("text": 3)", "text"},
           {R"("text": {"format": {"type": "json_schema"}})", "text.format"},
           {R"("text": {"format": 3})", "text.format"},
           {R"("metadata": [])", "metadata"},
           {R"("metadata": {"a": 1})", "metadata"},
           {R"("include": "x")", "include"},
           {R"("include": [1])", "include"},
           {R"("previous_response_id": 1)", "previous_response_id"},
           {R"("frequency_penalty": 1)", "frequency_penalty"},
           {R"("logit_bias": {"5": 1})", "logit_bias"}}) {
    ExpectBad(ReadWith(fields).status(), param, "'");
  }
  ExpectBad(Read("{}").status(), "input", "missing");
  ExpectBad(Read("[]").status(), "", "the body");
  EXPECT_TRUE(absl::IsNotFound(ReadWith(R"("model": "other")").status()));
  EXPECT_TRUE(ReadWith(R"("tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []})").ok());
  model_.max_context = 20;
  const absl::Status full = Read(R"({"input": ")" + std::string(100, 'q') + "\"}").status();
  EXPECT_EQ(ErrorCode(full), "context_length_exceeded");
}

TEST_F(ResponseRequestTest, AConversationGoesOnFromAStoredResponse) {
  stored_["resp_1"] = {{"user", "one"}, {"assistant", "two"}};
  const auto read = ReadWith(R"("previous_response_id": "resp_1", "instructions": "New.")");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(Prompt(*read), PromptOf("New.\n\nUser: one\nAssistant: two\nUser: x\nAssistant:"));
  EXPECT_EQ(read->messages.size(), 3u);  // without the instructions, which do not stay
  EXPECT_EQ(read->echo["previous_response_id"], "resp_1");
  EXPECT_TRUE(Read(R"({"previous_response_id": "resp_1"})").ok());

  const absl::Status missing = ReadWith(R"("previous_response_id": "resp_9")").status();
  EXPECT_TRUE(absl::IsNotFound(missing)) << missing;
  EXPECT_EQ(ErrorParam(missing), "previous_response_id");
  EXPECT_EQ(ErrorCode(missing), "previous_response_not_found");
}

}  // namespace
}  // namespace omni
