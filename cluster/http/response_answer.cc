#include "cluster/http/response_answer.h"

#include <utility>

#include "cluster/http/openai_answer.h"

namespace omni {
namespace {

using Json = nlohmann::json;

Json UsageJson(const AnswerUsage& usage) {
  return {{"input_tokens", usage.prompt_tokens},
          {"input_tokens_details", {{"cached_tokens", 0}}},
          {"output_tokens", usage.completion_tokens},
          {"output_tokens_details", {{"reasoning_tokens", 0}}},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
}

}  // namespace

ResponseAnswer::ResponseAnswer(ResponseHead head, Finished finished)
    : head_(std::move(head)), finished_(std::move(finished)) {}

Json ResponseAnswer::Response(const char* status) const {
  Json json = {{"id", head_.id},
               {"object", "response"},
               {"created_at", head_.created},
               {"status", status},
               {"background", false},
               {"error", nullptr},
               {"incomplete_details", nullptr},
               {"model", head_.model},
               {"output", Json::array()},
               {"reasoning", {{"effort", nullptr}, {"summary", nullptr}}},
               {"service_tier", "default"},
               {"store", head_.store},
               {"text", {{"format", {{"type", "text"}}}}},
               {"tools", Json::array()},  // it calls none
               {"truncation", "disabled"},
               {"usage", nullptr},
               {"user", nullptr}};
  json.update(head_.echo);
  return json;
}

Json ResponseAnswer::Part(const std::string& text, const Json& logprobs) const {
  return {{"type", "output_text"}, {"text", text}, {"annotations", Json::array()}, {"logprobs", logprobs}};
}

Json ResponseAnswer::Where() const {
  return {{"item_id", head_.message_id}, {"output_index", 0}, {"content_index", 0}};
}

Json ResponseAnswer::Item(const char* status, Json content) const {
  return {{"id", head_.message_id},
          {"type", "message"},
          {"status", status},
          {"role", "assistant"},
          {"content", std::move(content)}};
}

void ResponseAnswer::Complete(const AnswerChoice& choice) {
  const bool cut = choice.reason == StopReason::kLength || choice.reason == StopReason::kContext;
  incomplete_ = cut && (head_.bounded || choice.reason == StopReason::kContext);
  // As clients see it: what goes on from it is what would go on from what they have.
  text_ = Json::parse(JsonText(Json(choice.text))).get<std::string>();
  confidence_ = choice.confidence;
  notes_ = choice.notes;
  adapter_ = choice.adapter;
  item_ = Item(incomplete_ ? "incomplete" : "completed",
               Json::array({Part(text_, head_.logprobs ? TokenList(choice.tokens) : Json::array())}));
}

Json ResponseAnswer::Finish(const AnswerUsage& usage) const {
  Json json = Response(incomplete_ ? "incomplete" : "completed");
  if (incomplete_) json["incomplete_details"] = {{"reason", "max_output_tokens"}};
  json["output"] = Json::array({item_});
  json["usage"] = UsageJson(usage);
  if (confidence_.has_value()) json["confidence"] = ConfidenceJson(*confidence_);
  AddNotes(notes_, json);
  AddAdapter(adapter_, json);
  return json;
}

std::string ResponseAnswer::Whole(const std::vector<AnswerChoice>& choices, const AnswerUsage& usage) {
  Complete(choices.front());
  std::string whole = JsonText(Finish(usage)) + "\n";
  if (finished_ != nullptr) finished_(whole, text_);
  return whole;
}

std::string ResponseAnswer::Event(const char* type, Json fields) {
  fields["type"] = type;
  fields["sequence_number"] = sequence_++;
  return EventText(fields, type);
}

std::string ResponseAnswer::Begin() {
  const Json response = Response("in_progress");
  std::string events = Event("response.created", {{"response", response}});
  events += Event("response.in_progress", {{"response", response}});
  events += Event("response.output_item.added",
                  {{"output_index", 0}, {"item", Item("in_progress", Json::array())}});
  Json part = Where();
  part["part"] = Part("", Json::array());
  return events + Event("response.content_part.added", std::move(part));
}

std::string ResponseAnswer::Piece(size_t, const std::string& text, const std::vector<AnswerToken>& tokens) {
  Json piece = Where();
  piece["delta"] = text;
  piece["logprobs"] = head_.logprobs ? TokenList(tokens) : Json::array();
  return Event("response.output_text.delta", std::move(piece));
}

std::string ResponseAnswer::EndOfChoice(size_t, const AnswerChoice& all) {
  Complete(all);
  const Json& part = item_["content"][0];
  Json text = Where(), content = Where();
  text["text"] = text_;
  text["logprobs"] = part["logprobs"];
  content["part"] = part;
  std::string events = Event("response.output_text.done", std::move(text));
  events += Event("response.content_part.done", std::move(content));
  return events + Event("response.output_item.done", {{"output_index", 0}, {"item", item_}});
}

std::string ResponseAnswer::End(const AnswerUsage& usage) {
  Json response = Finish(usage);
  if (finished_ != nullptr) finished_(JsonText(response) + "\n", text_);
  return Event(incomplete_ ? "response.incomplete" : "response.completed",
               {{"response", std::move(response)}});
}

std::string ResponseAnswer::Failed(const absl::Status& status) {
  Json response = Response("failed");
  const Json error = ErrorJson(status)["error"];
  const bool named = !error["code"].is_null();
  response["error"] = {{"code", named ? error["code"] : error["type"]}, {"message", error["message"]}};
  return Event("response.failed", {{"response", std::move(response)}});
}

}  // namespace omni
