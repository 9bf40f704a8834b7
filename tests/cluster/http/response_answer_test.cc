#include "cluster/http/response_answer.h"

#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace omni {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::StartsWith;

class ResponseAnswerTest : public ::testing::Test {
 protected:
  static ResponseHead Head() {
    ResponseHead head;
    head.id = "resp_1";
    head.message_id = "msg_1";
    head.model = "mini";
    head.created = 99;
    head.store = true;
    head.echo = {{"instructions", "Be brief."}, {"metadata", {{"a", "b"}}}};
    return head;
  }
  static AnswerChoice Choice(StopReason reason) {
    AnswerChoice choice;
    choice.text = "a\nb";
    choice.tokens = {{"a", 0.5f, {{"c", 0.25f, {}}}}, {"\nb", 1, {}}};
    choice.reason = reason;
    return choice;
  }
  ResponseAnswer::Finished Keep() {
    return [this](const std::string& response, const std::string& text) {
      kept_ = json::parse(response);
      kept_text_ = text;
    };
  }
  // Adds the events, whose name is also in them and whose numbers have no gap.
  void Add(std::string text) {
    for (size_t end; (end = text.find("\n\n")) != text.npos; text.erase(0, end + 2)) {
      const std::string event = text.substr(0, end);
      const size_t line = event.find('\n');
      ASSERT_NE(line, event.npos);
      ASSERT_THAT(event, StartsWith("event: "));
      ASSERT_THAT(event.substr(line + 1), StartsWith("data: "));
      const json value = json::parse(event.substr(line + 7));
      EXPECT_EQ(value["type"], event.substr(7, line - 7));
      EXPECT_EQ(value["sequence_number"], events_.size());
      events_.push_back(value);
      types_.push_back(value["type"]);
    }
    EXPECT_EQ(text, "");
  }

  std::vector<json> events_;
  std::vector<std::string> types_;
  json kept_;
  std::string kept_text_;
};

TEST_F(ResponseAnswerTest, AWholeResponse) {
  const json response =
      json::parse(ResponseAnswer(Head(), Keep()).Whole({Choice(StopReason::kEndOfText)}, {3, 2}));
  EXPECT_EQ(response["id"], "resp_1");
  EXPECT_EQ(response["object"], "response");
  EXPECT_EQ(response["created_at"], 99);
  EXPECT_EQ(response["status"], "completed");
  EXPECT_EQ(response["model"], "mini");
  EXPECT_EQ(response["instructions"], "Be brief.");
  EXPECT_EQ(response["metadata"], json({{"a", "b"}}));
  EXPECT_TRUE(response["error"].is_null());
  EXPECT_TRUE(response["incomplete_details"].is_null());
  ASSERT_EQ(response["output"].size(), 1u);
  EXPECT_EQ(response["output"][0], json({{"id", "msg_1"},
                                         {"type", "message"},
                                         {"status", "completed"},
                                         {"role", "assistant"},
                                         {"content",
                                          {{{"type", "output_text"},
                                            {"text", "a\nb"},
                                            {"annotations", json::array()},
                                            {"logprobs", json::array()}}}}}));
  EXPECT_EQ(response["usage"], json({{"input_tokens", 3},
                                     {"input_tokens_details", {{"cached_tokens", 0}}},
                                     {"output_tokens", 2},
                                     {"output_tokens_details", {{"reasoning_tokens", 0}}},
                                     {"total_tokens", 5}}));
  EXPECT_EQ(kept_, response);
  EXPECT_EQ(kept_text_, "a\nb");
}

TEST_F(ResponseAnswerTest, AStreamIsTheWholeSequenceOfEvents) {
  ResponseHead head = Head();
  head.logprobs = true;
  ResponseAnswer form(head, Keep());
  const AnswerChoice choice = Choice(StopReason::kStop);
  Add(form.Begin());
  Add(form.Piece(0, "a", {choice.tokens[0]}));
  Add(form.Piece(0, "\nb", {choice.tokens[1]}));
  Add(form.EndOfChoice(0, choice));
  EXPECT_TRUE(kept_.is_null());
  Add(form.End({3, 2}));
  EXPECT_THAT(types_,
              ElementsAre("response.created", "response.in_progress", "response.output_item.added",
                          "response.content_part.added", "response.output_text.delta",
                          "response.output_text.delta", "response.output_text.done",
                          "response.content_part.done", "response.output_item.done", "response.completed"));
  for (const int i : {0, 1}) {
    EXPECT_EQ(events_[i]["response"]["status"], "in_progress");
    EXPECT_TRUE(events_[i]["response"]["usage"].is_null());
    EXPECT_EQ(events_[i]["response"]["output"], json::array());
  }
  EXPECT_EQ(events_[2]["item"]["status"], "in_progress");
  EXPECT_EQ(events_[2]["item"]["content"], json::array());
  EXPECT_EQ(events_[3]["part"]["text"], "");
  for (const int i : {3, 4, 5, 6, 7}) {
    EXPECT_EQ(events_[i]["item_id"], "msg_1");
    EXPECT_EQ(events_[i]["output_index"], 0);
    EXPECT_EQ(events_[i]["content_index"], 0);
  }
  EXPECT_EQ(events_[4]["delta"], "a");
  EXPECT_EQ(events_[4]["logprobs"][0]["top_logprobs"][0]["token"], "c");
  EXPECT_EQ(events_[5]["delta"], "\nb");
  EXPECT_EQ(events_[6]["text"], "a\nb");
  EXPECT_EQ(events_[6]["logprobs"].size(), 2u);
  EXPECT_EQ(events_[7]["part"]["text"], "a\nb");
  EXPECT_EQ(events_[8]["item"]["status"], "completed");
  EXPECT_EQ(events_[9]["response"]["output"][0], events_[8]["item"]);
  EXPECT_EQ(events_[9]["response"], kept_);
}

TEST_F(ResponseAnswerTest, ATextCutWhereTheClientSaidIsIncomplete) {
  for (const bool bounded : {true, false}) {
    SCOPED_TRACE(bounded);
    ResponseHead head = Head();
    head.bounded = bounded;
    types_.clear();
    events_.clear();
    ResponseAnswer form(head, nullptr);
    Add(form.Begin());
    Add(form.EndOfChoice(0, Choice(StopReason::kLength)));
    Add(form.End({}));
    const json& response = events_.back()["response"];
    EXPECT_EQ(types_.back(), bounded ? "response.incomplete" : "response.completed");
    EXPECT_EQ(response["status"], bounded ? "incomplete" : "completed");
    EXPECT_EQ(response["output"][0]["status"], bounded ? "incomplete" : "completed");
    EXPECT_EQ(response["incomplete_details"],
              bounded ? json({{"reason", "max_output_tokens"}}) : json(nullptr));
  }
}

TEST_F(ResponseAnswerTest, AFailureIsTheLastEvent) {
  ResponseAnswer form(Head(), Keep());
  Add(form.Begin());
  Add(form.Failed(absl::InternalError("broken")));
  EXPECT_EQ(types_.back(), "response.failed");
  EXPECT_EQ(events_.back()["response"]["status"], "failed");
  EXPECT_EQ(events_.back()["response"]["error"], json({{"code", "server_error"}, {"message", "broken"}}));
  EXPECT_TRUE(kept_.is_null());
}

}  // namespace
}  // namespace omni
