#include "cluster/http/completion_answer.h"

#include <cmath>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace omni {
namespace {

using nlohmann::json;
using ::testing::StartsWith;

// The events of a piece of a stream; "[DONE]" as it is.
std::vector<json> Events(std::string text) {
  std::vector<json> events;
  for (size_t end; (end = text.find("\n\n")) != text.npos; text.erase(0, end + 2)) {
    const std::string event = text.substr(0, end);
    EXPECT_THAT(event, StartsWith("data: "));
    EXPECT_EQ(event.find('\n'), event.npos);  // one line: a client would take it for several
    events.push_back(event == "data: [DONE]" ? json("[DONE]") : json::parse(event.substr(6)));
  }
  EXPECT_EQ(text, "");
  return events;
}

AnswerHead Head(bool chat) {
  AnswerHead head;
  head.id = "id-1";
  head.model = "mini";
  head.created = 99;
  head.chat = chat;
  return head;
}

AnswerChoice Choice(const std::string& text, StopReason reason) {
  AnswerChoice choice;
  choice.text = text;
  choice.tokens = {{"a\xe2", 0.5f, {{"b", 0.75f, {}}, {"\xc3", 0.125f, {}}}}, {"\x82\xac", 0, {}}};
  choice.reason = reason;
  return choice;
}

TEST(CompletionAnswerTest, AWholeChat) {
  AnswerHead head = Head(true);
  head.logprobs = true;
  const json answer =
      json::parse(CompletionAnswer(head).Whole({Choice("line\nline", StopReason::kStop)}, {3, 2}));
  EXPECT_EQ(answer["id"], "id-1");
  EXPECT_EQ(answer["object"], "chat.completion");
  EXPECT_EQ(answer["created"], 99);
  EXPECT_EQ(answer["model"], "mini");
  ASSERT_EQ(answer["choices"].size(), 1u);
  const json& choice = answer["choices"][0];
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["message"]["content"], "line\nline");
  EXPECT_EQ(choice["finish_reason"], "stop");
  const json& tokens = choice["logprobs"]["content"];
  ASSERT_EQ(tokens.size(), 2u);
  EXPECT_NEAR(tokens[0]["logprob"].get<double>(), std::log(0.5), 1e-9);
  EXPECT_EQ(tokens[1]["logprob"], -9999.0);
  EXPECT_EQ(tokens[1]["bytes"], json({0x82, 0xac}));
  ASSERT_EQ(tokens[0]["top_logprobs"].size(), 2u);
  EXPECT_EQ(tokens[0]["top_logprobs"][0]["token"], "b");
  EXPECT_NEAR(tokens[0]["top_logprobs"][0]["logprob"].get<double>(), std::log(0.75), 1e-9);
  EXPECT_EQ(tokens[0]["top_logprobs"][1]["bytes"], json({0xc3}));
  EXPECT_EQ(tokens[1]["top_logprobs"], json::array());
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(answer["usage"]["completion_tokens"], 2);
  EXPECT_EQ(answer["usage"]["total_tokens"], 5);
}

TEST(CompletionAnswerTest, AWholeCompletion) {
  const json answer =
      json::parse(CompletionAnswer(Head(false)).Whole({Choice("text \xff", StopReason::kContext)}, {}));
  EXPECT_EQ(answer["object"], "text_completion");
  EXPECT_EQ(answer["choices"][0]["text"], "text \xef\xbf\xbd");  // what is no UTF-8 is marked, not sent
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(answer["choices"][0]["logprobs"].is_null());
}

TEST(CompletionAnswerTest, ACompletionsTokensAreNamedByTheirBytesWhereTheyAreNoText) {
  AnswerHead head = Head(false);
  head.logprobs = true;
  const json answer = json::parse(CompletionAnswer(head).Whole({Choice("a\u20ac", StopReason::kLength)}, {}));
  const json& logprobs = answer["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"], json({"bytes:\\x61\\xe2", "bytes:\\x82\\xac"}));
  EXPECT_EQ(logprobs["text_offset"], json({0, 2}));
  // The token itself is told beside the likeliest.
  ASSERT_EQ(logprobs["top_logprobs"][0].size(), 3u);
  EXPECT_NEAR(logprobs["top_logprobs"][0]["b"].get<double>(), std::log(0.75), 1e-9);
  EXPECT_NEAR(logprobs["top_logprobs"][0]["bytes:\\x61\\xe2"].get<double>(), std::log(0.5), 1e-9);
  EXPECT_TRUE(logprobs["top_logprobs"][1].is_null());
}

TEST(CompletionAnswerTest, ChoicesAreNumberedAndBeginWithTheirPrompt) {
  AnswerHead head = Head(false);
  head.choices = 2;
  head.echo = {"one ", "two "};
  const std::vector<AnswerChoice> choices = {Choice("x", StopReason::kStop),
                                             Choice("y", StopReason::kLength)};
  const json answer = json::parse(CompletionAnswer(head).Whole(choices, {}));
  ASSERT_EQ(answer["choices"].size(), 2u);
  EXPECT_EQ(answer["choices"][1]["index"], 1);
  EXPECT_EQ(answer["choices"][1]["text"], "two y");
  EXPECT_EQ(answer["choices"][1]["finish_reason"], "length");
  const std::vector<json> begin = Events(CompletionAnswer(head).Begin());
  ASSERT_EQ(begin.size(), 2u);
  EXPECT_EQ(begin[1]["choices"][0]["index"], 1);
  EXPECT_EQ(begin[1]["choices"][0]["text"], "two ");
}

TEST(CompletionAnswerTest, AStreamsUsageIsNullUntilTheLastPiece) {
  AnswerHead head = Head(true);
  head.include_usage = true;
  CompletionAnswer form(head);
  const std::vector<json> end = Events(form.End({1, 2}));
  const json first = Events(form.Begin()).at(0), text = Events(form.Piece(0, "a\nb", {})).at(0),
             last = Events(form.EndOfChoice(0, Choice("", StopReason::kEndOfText))).at(0);
  for (const json& piece : {first, text, last}) {
    EXPECT_EQ(piece["object"], "chat.completion.chunk");
    EXPECT_TRUE(piece.at("usage").is_null());
    ASSERT_EQ(piece["choices"].size(), 1u);
  }
  EXPECT_EQ(first["choices"][0]["delta"]["role"], "assistant");
  EXPECT_TRUE(first["choices"][0]["finish_reason"].is_null());
  EXPECT_EQ(text["choices"][0]["delta"], json({{"content", "a\nb"}}));
  EXPECT_EQ(last["choices"][0]["delta"], json::object());
  EXPECT_EQ(last["choices"][0]["finish_reason"], "stop");
  ASSERT_EQ(end.size(), 2u);
  EXPECT_EQ(end[0]["choices"], json::array());
  EXPECT_EQ(end[0]["usage"]["total_tokens"], 3);
  EXPECT_EQ(end[1], "[DONE]");
}

TEST(CompletionAnswerTest, AStreamWithoutUsageSaysNothingOfIt) {
  CompletionAnswer form(Head(false));
  const json text = Events(form.Piece(0, "a", {})).at(0);
  EXPECT_FALSE(text.contains("usage"));
  EXPECT_EQ(text["choices"][0]["text"], "a");
  EXPECT_EQ(Events(form.End({1, 2})), std::vector<json>{"[DONE]"});
  EXPECT_EQ(Events(form.EndOfChoice(0, Choice("", StopReason::kLength))).at(0)["choices"][0]["finish_reason"],
            "length");
  EXPECT_EQ(Events(form.Failed(absl::InternalError("m"))).at(0)["error"]["type"], "server_error");
}

}  // namespace
}  // namespace omni
