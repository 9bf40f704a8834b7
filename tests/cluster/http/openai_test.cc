// OpenAI's requests and answers as JSON, without a server.
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cluster/http/chat_template.h"
#include "cluster/http/openai_answer.h"
#include "cluster/http/openai_request.h"
#include "engine/text/prompt.h"
#include "tests/cluster/http/request_fixture.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class OpenAiRequest : public testing::RequestTest {
 protected:
  absl::StatusOr<CompletionRequest> Completion(const std::string& body) {
    return ReadCompletion(body, model_, 7);
  }
  absl::StatusOr<CompletionRequest> Chat(const std::string& body) { return ReadChat(body, model_, 7); }
  // A chat of one message, with these fields beside it.
  absl::StatusOr<CompletionRequest> ChatWith(const std::string& fields) {
    return Chat(R"({"messages": [{"role": "user", "content": "x"}], )" + fields + "}");
  }
  absl::StatusOr<CompletionRequest> CompletionWith(const std::string& fields) {
    return Completion(R"({"prompt": "x", )" + fields + "}");
  }
  static void ExpectBad(const absl::StatusOr<CompletionRequest>& read, const std::string& param,
                        const std::string& part = "") {
    RequestTest::ExpectBad(read.status(), param, part);
  }
};

TEST_F(OpenAiRequest, ACompletionHasOpenAisDefaults) {
  const auto read = Completion(R"({"model": "mini", "prompt": "the sea"})");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_FALSE(read->chat || read->stream || read->include_usage || read->logprobs);
  const GenerateRequest& g = read->choices[0];
  EXPECT_EQ(g.prompt, PromptTokens(tokenizer_, "the sea"));
  EXPECT_EQ(g.max_tokens, 16);
  EXPECT_EQ(g.sampler.temperature, 1);
  EXPECT_EQ(g.sampler.top_p, 1);
  EXPECT_EQ(g.sampler.top_k, 0);
  EXPECT_EQ(g.sampler.seed, 7u);
  EXPECT_TRUE(g.stop_at_end_of_text);
  EXPECT_TRUE(g.stops.empty());
}

TEST_F(OpenAiRequest, EverySettingArrives) {
  const auto read = Completion(R"({"prompt": "x", "max_tokens": 5, "temperature": 0, "top_p": 0.5, "top_k": 3,
      "min_p": 0.1, "repeat_penalty": 1.5,
      "ignore_eos": true, "seed": -1, "stop": ["a", "b"], "stream": true, "n": 1,
      "best_of": 1,
      "stream_options": {"include_usage": true}, "logprobs": 0, "user": "u", "unknown": {}, "echo": false,
      "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "suffix": null})");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(read->stream && read->include_usage && read->logprobs);
  const GenerateRequest& g = read->choices[0];
  EXPECT_EQ(g.max_tokens, 5);
  EXPECT_EQ(g.sampler.temperature, 0);
  EXPECT_EQ(g.sampler.top_p, 0.5f);
  EXPECT_EQ(g.sampler.top_k, 3);
  EXPECT_EQ(g.sampler.min_p, 0.1f);
  EXPECT_EQ(g.sampler.repetition_penalty, 1.5f);
  EXPECT_EQ(g.sampler.seed, UINT64_MAX);
  EXPECT_FALSE(g.stop_at_end_of_text);
  EXPECT_THAT(g.stops, ElementsAre("a", "b"));
}

TEST_F(OpenAiRequest, NullIsAsGoodAsNothing) {
  const auto read = CompletionWith(
      R"("model": null, "max_tokens": null, "temperature": null, "stop": null, "stream": null, "n": null,
         "stream_options": null, "logprobs": null, "seed": null, "echo": null, "logit_bias": null)");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->choices[0].max_tokens, 16);
}

TEST_F(OpenAiRequest, APromptMayBeTokens) {
  for (const char* prompt : {"[97, 98]", "[[97, 98]]"}) {
    const auto read = Completion(std::string(R"({"prompt": )") + prompt + "}");
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_THAT(read->choices[0].prompt, ElementsAre(TokenId(97), TokenId(98)));
  }
  const auto one = Completion(R"({"prompt": ["x"]})");
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(one->choices[0].prompt, PromptTokens(tokenizer_, "x"));
  for (const char* prompt : {"[260]", "[-1]", "[1.5]", "[1, \"a\"]", "[\"a\", 1]", "[[1], [\"a\"]]", "[]",
                             "[[]]", "[[1], 2]", "{}", "1", "true", "[1e30]", "[18446744073709551615]"}) {
    ExpectBad(Completion(std::string(R"({"prompt": )") + prompt + "}"), "prompt");
  }
  ExpectBad(Completion("{}"), "prompt", "missing");
}

TEST_F(OpenAiRequest, EveryPromptHasItsChoices) {
  const auto read = Completion(
      R"({"prompt": ["a", [98, 99]], "n": 2, "best_of": 2, "seed": 5, "echo": true, "max_tokens": 3})");
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->choices.size(), 4u);
  EXPECT_EQ(read->choices[1].prompt, PromptTokens(tokenizer_, "a"));
  EXPECT_THAT(read->choices[3].prompt, ElementsAre(TokenId(98), TokenId(99)));
  EXPECT_THAT(read->echo, ElementsAre("a", "a", "bc", "bc"));
  EXPECT_EQ(read->prompt_tokens, 4);  // of each prompt once
  for (const int first : {0, 2}) {
    EXPECT_EQ(read->choices[first].sampler.seed, 5u);
    EXPECT_NE(read->choices[first + 1].sampler.seed, 5u);
  }
  EXPECT_EQ(read->choices[1].sampler.seed, read->choices[3].sampler.seed);
  const auto chat = ChatWith(R"("n": 3, "logprobs": true, "top_logprobs": 20)");
  ASSERT_TRUE(chat.ok()) << chat.status();
  ASSERT_EQ(chat->choices.size(), 3u);
  EXPECT_EQ(chat->choices[2].alternatives, 20);
  EXPECT_EQ(CompletionWith(R"("logprobs": 5)")->choices[0].alternatives, 5);
}

TEST_F(OpenAiRequest, PerspectivesAreOneTextOrNone) {
  const auto read = ChatWith(R"("perspectives": "far,use=average,every=2")");
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_TRUE(read->choices[0].perspectives.has_value());
  EXPECT_EQ(PerspectiveText(*read->choices[0].perspectives),
            PerspectiveText(*ParsePerspectives("far,use=average,every=2")));
  for (const char* none : {R"("perspectives": "off")", R"("perspectives": "")", R"("perspectives": null)"})
    EXPECT_FALSE(ChatWith(none)->choices[0].perspectives.has_value()) << none;
  ExpectBad(ChatWith(R"("perspectives": "sideways")"), "perspectives", "near or far");
  ExpectBad(CompletionWith(R"("perspectives": 4)"), "perspectives");
  const auto around = ChatWith(R"("safety": "general", "context_memory": true, "adapter": "me")");
  ASSERT_TRUE(around.ok()) << around.status();
  EXPECT_EQ(around->choices[0].safety.polytope, "general");
  EXPECT_TRUE(around->choices[0].context_memory);
  EXPECT_EQ(around->choices[0].adapter.name, "me");
  EXPECT_TRUE(read->choices[0].adapter.name.empty());
  ExpectBad(CompletionWith(R"("adapter": 4)"), "adapter");
  EXPECT_TRUE(read->choices[0].safety.polytope.empty());
  EXPECT_FALSE(read->choices[0].context_memory);
  ExpectBad(CompletionWith(R"("safety": 4)"), "safety");
  ExpectBad(CompletionWith(R"("context_memory": "yes")"), "context_memory");
}

TEST_F(OpenAiRequest, MoreThanOneRequestMayHoldIsRefused) {
  ExpectBad(Completion(R"({"prompt": ["a", "b"], "n": 65})"), "n", "128");
  std::string many = "[";
  for (int i = 0; i < 129; ++i) many += i == 0 ? "\"a\"" : ",\"a\"";
  ExpectBad(Completion(R"({"prompt": )" + many + "]}"), "prompt", "129");
  // What is told of a whole answer's tokens stays bounded; a stream's are told as they come.
  ExpectBad(ChatWith(R"("logprobs": true, "max_tokens": 131073)"), "max_tokens", "131072");
  ExpectBad(ChatWith(R"("logprobs": true, "top_logprobs": 20, "n": 7, "max_tokens": 1000)"), "max_tokens");
  ExpectBad(CompletionWith(R"("logprobs": 3, "n": 2, "max_tokens": 20000)"), "max_tokens");
  for (const char* fields : {R"("logprobs": true, "max_tokens": 131072)", R"("max_tokens": 1000000)",
                             R"("logprobs": true, "max_tokens": 1000000, "stream": true)"})
    EXPECT_TRUE(ChatWith(fields).ok()) << fields;
  model_.max_context = 1 << 20;
  ExpectBad(Completion(R"({"n": 128, "prompt": ")" + std::string(200'000, 'q') + "\"}"), "n", "one by one");
}

// In a process of its own, which may take so much memory and no more.
TEST_F(OpenAiRequest, WhatIsRefusedIsNotWrittenOutBefore) {
  constexpr int kTokens = 600'000, kMostMb = 150;
  int token = 0;  // the longest
  for (int i = 1; i < tokenizer_.vocab(); ++i) {
    if (tokenizer_.Bytes(TokenId(i)).size() > tokenizer_.Bytes(TokenId(token)).size()) token = i;
  }
  ASSERT_GT(128 * kTokens * tokenizer_.Bytes(TokenId(token)).size(), kMostMb << 20);
  const std::string one = std::to_string(token);
  std::string body = R"({"n": 128, "echo": true, "prompt": [)" + one;
  for (int i = 1; i < kTokens; ++i) body.append(",").append(one);
  body += "]}";
  const auto read = [&] {
    int64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlimit most{static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE) + (int64_t{kMostMb} << 20)),
                      RLIM_INFINITY};
    setrlimit(RLIMIT_AS, &most);
    std::_Exit(absl::IsInvalidArgument(Completion(body).status()) ? 0 : 1);
  };
  EXPECT_EXIT(read(), ::testing::ExitedWithCode(0), "");
}

TEST_F(OpenAiRequest, WhatIsWrongIsNamed) {
  for (const auto& [fields, param] : std::vector<std::pair<std::string, std::string>>{
           {R"("max_tokens": 0)", "max_tokens"},
           {R"("max_tokens": 1.5)", "max_tokens"},
           {R"("max_tokens": "9")", "max_tokens"},
           {R"("max_tokens": 1e99)", "max_tokens"},
           {R"("max_tokens": 18446744073709551615)", "max_tokens"},
           {R"("max_tokens": 5, "max_completion_tokens": 6)", "max_tokens"},
           {R"("temperature": -0.1)", "temperature"},
           {R"("temperature": "hot")", "temperature"},
           {R"("top_p": 0)", "top_p"},
           {R"("top_p": 1.1)", "top_p"},
           {R"("top_k": -1)", "top_k"},
           {R"("seed": 1.5)", "seed"},
           {R"("seed": 18446744073709551615)", "seed"},
           {R"("ignore_eos": "no")", "ignore_eos"},
           {R"("stream": 1)", "stream"},
           {R"("stream_options": {"include_usage": true})", "stream_options"},
           {R"("stream": true, "stream_options": [])", "stream_options"},
           {R"("stream": true, "stream_options": {"include_usage": 1})", "stream_options.include_usage"},
           {R"("n": 129)", "n"},
           {R"("n": 0)", "n"},
           {R"("stop": "")", "stop"},
           {R"("stop": ["a", ""])", "stop"},
           {R"("stop": [1])", "stop"},
           {R"("stop": {})", "stop"},
           {R"("model": 3)", "model"},
           {R"("presence_penalty": 0.5)", "presence_penalty"},
           {R"("frequency_penalty": -1)", "frequency_penalty"},
           {R"("logit_bias": {"5": 1})", "logit_bias"}}) {
    ExpectBad(CompletionWith(fields), param, "'");
    ExpectBad(ChatWith(fields), param, "'");
  }
  for (const auto& [fields, param] :
       std::vector<std::pair<std::string, std::string>>{{R"("logprobs": 6)", "logprobs"},
                                                        {R"("logprobs": true)", "logprobs"},
                                                        {R"("best_of": 2)", "best_of"},
                                                        {R"("best_of": 1, "n": 2)", "best_of"},
                                                        {R"("echo": true, "logprobs": 0)", "echo"},
                                                        {R"("suffix": "end")", "suffix"}}) {
    ExpectBad(CompletionWith(fields), param);
  }
  for (const auto& [fields, param] : std::vector<std::pair<std::string, std::string>>{
           {R"("logprobs": 0)", "logprobs"},
           {R"("top_logprobs": 1)", "top_logprobs"},
           {R"("logprobs": true, "top_logprobs": 21)", "top_logprobs"},
           {R"("response_format": {"type": "json_object"})", "response_format"},
           {R"("response_format": {})", "response_format"},
           {R"("tools": {})", "tools"},
           {R"("tool_choice": "required")", "tool_choice"},
           {R"("tool_choice": {"type": "function", "function": {"name": "f"}})", "tool_choice"}}) {
    ExpectBad(ChatWith(fields), param);
  }
}

TEST_F(OpenAiRequest, AnotherModelIsNotFound) {
  const auto read = CompletionWith(R"("model": "gpt-9")");
  ASSERT_TRUE(absl::IsNotFound(read.status())) << read.status();
  EXPECT_EQ(ErrorCode(read.status()), "model_not_found");
  EXPECT_EQ(ErrorParam(read.status()), "model");
  EXPECT_THAT(std::string(read.status().message()), HasSubstr("'mini' is"));
}

TEST_F(OpenAiRequest, ABodyThatIsNoObjectIsRefused) {
  for (const std::string body : {"", "{", "[]", "3", "\"a\"", "{\"prompt\": \"\xff\"}",
                                 "{\"prompt\": \"x\"} {}", "{\"prompt\": \"x\", \"prompt\": \"y\"}"}) {
    ExpectBad(Completion(body), "", "the body ");
  }
  ExpectBad(Completion(std::string(1000, '[')), "", "nests deeper");
}

TEST_F(OpenAiRequest, APromptBeyondTheContextIsRefusedByItsName) {
  for (const auto& read :
       {Completion(R"({"prompt": ")" + std::string(100, 'q') + "\"}"),
        Chat(R"({"messages": [{"role": "user", "content": ")" + std::string(100, 'q') + "\"}]}")}) {
    ASSERT_TRUE(absl::IsInvalidArgument(read.status())) << read.status();
    EXPECT_EQ(ErrorCode(read.status()), "context_length_exceeded");
    EXPECT_THAT(std::string(read.status().message()), HasSubstr("100"));
  }
}

TEST_F(OpenAiRequest, MessagesBecomeTheTemplatesText) {
  const auto read = Chat(R"({"messages": [
      {"role": "developer", "content": "Be brief."},
      {"role": "user", "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "sea"}]},
      {"role": "assistant", "content": null, "tool_calls": []},
      {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}},
                                           {"type": "of_tomorrow"}, 3]},
      {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}],
       "function_call": {"name": "g", "arguments": "1"}},
      {"role": "tool", "content": "calm"}], "tools": [{"type": "anything", "deep": [[[[[[[[[1]]]]]]]]]}],
      "tool_choice": "auto", "stop": "z", "logprobs": true, "max_completion_tokens": 3})");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(tokenizer_.Decode(read->choices[0].prompt),
            tokenizer_.Decode(
                PromptTokens(tokenizer_,
                             "Be brief.\n\nUser: the sea\nAssistant: \nAssistant: f({})\nAssistant: nog(1)\n"
                             "Tool: calm\nAssistant:")));
  EXPECT_TRUE(read->chat && read->logprobs);
  EXPECT_EQ(read->choices[0].max_tokens, 3);
  EXPECT_THAT(read->choices[0].stops, ElementsAre("z", "\nUser:"));
  EXPECT_EQ(ChatWith(R"("seed": 1)")->choices[0].max_tokens, kChatTokens);
}

TEST_F(OpenAiRequest, AMessageThatIsWrongIsNamed) {
  for (const auto& [messages, param] : std::vector<std::pair<std::string, std::string>>{
           {"null", "messages"},
           {"[]", "messages"},
           {"{}", "messages"},
           {"[3]", "messages[0]"},
           {R"([{"content": "x"}])", "messages[0].role"},
           {R"([{"role": "king", "content": "x"}])", "messages[0].role"},
           {R"([{"role": 1, "content": "x"}])", "messages[0].role"},
           {R"([{"role": "user", "content": "x"}, {"role": "user"}])", "messages[1].content"},
           {R"([{"role": "user", "content": null}])", "messages[0].content"},
           {R"([{"role": "user", "content": 5}])", "messages[0].content"},
           {R"([{"role": "user", "content": [{"type": "image_url"}]}])", "messages[0].content[0]"},
           {R"([{"role": "user", "content": [{"type": "text"}]}])", "messages[0].content[0]"},
           {R"([{"role": "user", "content": ["x"]}])", "messages[0].content[0]"}}) {
    ExpectBad(Chat(R"({"messages": )" + messages + "}"), param, "'messages");
  }
}

TEST(ChatTemplateTest, AModelMayBringItsOwn) {
  const testing::TempDir dir;
  EXPECT_FALSE(ChatTemplate::Load(dir.path())->from_file());
  std::ofstream(dir / ChatTemplate::kFile)
      << R"({"system": "<{content}>", "user": "Q:{content};", "assistant": "A:{content};", "answer": "A:",
             "stops": ["Q:"]})";
  const auto chat = ChatTemplate::Load(dir.path());
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_TRUE(chat->from_file());
  // What a message says is not looked at.
  EXPECT_EQ(chat->Render({{"system", "s"}, {"user", "{content}"}, {"assistant", "a"}, {"tool", "t"}}),
            "<s>Q:{content};A:a;Q:t;A:");
  EXPECT_THAT(chat->stops(), ElementsAre("Q:"));
}

TEST(ChatTemplateTest, AFileThatIsWrongIsNamed) {
  const testing::TempDir dir;
  for (const auto& [text, part] : std::vector<std::pair<std::string, std::string>>{
           {"", "is not JSON"},
           {"[]", "no JSON object"},
           {R"({"user": "{content}", "system": "{content}"})", "lacks 'assistant'"},
           {R"({"user": "hello"})", "'user' without {content}"},
           {R"({"user": 3})", "'user' that is no text"},
           {R"({"usr": "{content}"})", "the key 'usr'"},
           {R"({"stops": [""]})", "'stops'"},
           {R"({"stops": "x"})", "'stops'"}}) {
    std::ofstream(dir / ChatTemplate::kFile) << text << std::flush;
    const auto chat = ChatTemplate::Load(dir.path());
    ASSERT_TRUE(absl::IsInvalidArgument(chat.status())) << text;
    EXPECT_THAT(std::string(chat.status().message()), HasSubstr(ChatTemplate::kFile));
    EXPECT_THAT(std::string(chat.status().message()), HasSubstr(part));
  }
}

TEST(OpenAiAnswer, AnErrorHasTheStatusOfItsKind) {
  for (const auto& [status, http, type] : std::vector<std::tuple<absl::Status, int, std::string>>{
           {absl::InvalidArgumentError("m"), 400, "invalid_request_error"},
           {absl::NotFoundError("m"), 404, "invalid_request_error"},
           {absl::ResourceExhaustedError("m"), 429, "rate_limit_error"},
           {absl::UnavailableError("m"), 503, "server_error"},
           {absl::DeadlineExceededError("m"), 504, "server_error"},
           {absl::DataLossError("m"), 500, "server_error"},
           {absl::InternalError("m"), 500, "server_error"}}) {
    const HttpAnswer answer = ErrorAnswer(status);
    EXPECT_EQ(answer.status, http);
    const json error = json::parse(answer.body)["error"];
    EXPECT_EQ(error["message"], "m");
    EXPECT_EQ(error["type"], type);
    EXPECT_TRUE(error.at("param").is_null());
    EXPECT_EQ(error.at("code"), http == 429 ? json("rate_limit_exceeded") : json(nullptr));
    const bool hint = !answer.headers.empty() && answer.headers.front().first == "Retry-After";
    EXPECT_EQ(hint, http == 429 || http == 503);
  }
  EXPECT_THAT(EventText(ErrorJson(absl::InternalError("m"))),
              AllOf(StartsWith("data: {"), HasSubstr("server_error"), EndsWith("}\n\n")));
  EXPECT_EQ(EventText("a\nb", "name"), "event: name\ndata: \"a\\nb\"\n\n");
  EXPECT_EQ(json::parse(ErrorAnswer(413, "big").body)["error"]["message"], "big");
}

}  // namespace
}  // namespace omni
