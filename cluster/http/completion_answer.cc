#include "cluster/http/completion_answer.h"

#include <algorithm>
#include <utility>

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include "cluster/http/openai_answer.h"

namespace omni {
namespace {

using Json = nlohmann::json;

constexpr char kDoneEvent[] = "data: [DONE]\n\n";

// Bytes that begin a character.
int64_t Characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

// A token of a completion, which has no bytes beside it: those that are no text are written out.
std::string TokenName(const AnswerToken& token) {
  constexpr char kReplaced[] = "\xef\xbf\xbd";  // in JSON, of what is no UTF-8
  if (JsonText(Json(token.bytes)).find(kReplaced) == std::string::npos) return token.bytes;
  std::string name = "bytes:";
  for (const char c : token.bytes) absl::StrAppend(&name, "\\x", absl::BytesToHexString(std::string(1, c)));
  return name;
}

// `at`: characters before the first token; moved on.
Json CompletionLogprobs(const std::vector<AnswerToken>& tokens, int64_t& at) {
  Json texts = Json::array(), values = Json::array(), tops = Json::array(), offsets = Json::array();
  Json confidences = Json::array(), notes = Json::array();
  for (const AnswerToken& token : tokens) {
    texts.push_back(TokenName(token));
    values.push_back(LogProbability(token.probability));
    Json top = Json::object();
    for (const AnswerToken& other : token.alternatives)
      top.emplace(TokenName(other), LogProbability(other.probability));
    if (!token.alternatives.empty()) top.emplace(TokenName(token), LogProbability(token.probability));
    tops.push_back(token.alternatives.empty() ? Json(nullptr) : std::move(top));
    if (token.confidence.has_value()) confidences.push_back(ConfidenceJson(*token.confidence));
    if (Json noted = Json::object(); AddNotes(token.notes, noted), !noted.empty())
      notes.push_back(std::move(noted));
    offsets.push_back(at);
    at += Characters(token.bytes);
  }
  Json json = {{"tokens", std::move(texts)},
               {"token_logprobs", std::move(values)},
               {"top_logprobs", std::move(tops)},
               {"text_offset", std::move(offsets)}};
  if (!confidences.empty()) json["token_confidences"] = std::move(confidences);
  if (!notes.empty()) json["token_notes"] = std::move(notes);
  return json;
}

Json Logprobs(const AnswerHead& head, const std::vector<AnswerToken>& tokens, int64_t& at) {
  if (!head.logprobs) return nullptr;
  if (!head.chat) return CompletionLogprobs(tokens, at);
  return {{"content", TokenList(tokens)}, {"refusal", nullptr}};
}

Json UsageJson(const AnswerUsage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", 0}}},
          {"completion_tokens_details", {{"reasoning_tokens", 0}}}};
}

Json Base(const AnswerHead& head, const char* chat_object) {
  return {{"id", head.id},
          {"object", head.chat ? chat_object : "text_completion"},
          {"created", head.created},
          {"model", head.model}};
}

// A chat's text is a delta of a message, a completion's stands alone.
std::string Chunk(const AnswerHead& head, size_t index, Json delta, const std::string& text, Json logprobs,
                  const Json& reason, const std::optional<ConfidenceSummary>& confidence = {},
                  const NotesSummary& notes = {}, const AdapterChoice& adapter = {}) {
  Json choice = {{"index", index}, {"logprobs", std::move(logprobs)}, {"finish_reason", reason}};
  if (confidence.has_value()) choice["confidence"] = ConfidenceJson(*confidence);
  AddNotes(notes, choice);
  AddAdapter(adapter, choice);
  if (head.chat) {
    choice["delta"] = std::move(delta);
  } else {
    choice["text"] = text;
  }
  Json json = Base(head, "chat.completion.chunk");
  json["choices"] = Json::array({std::move(choice)});
  if (head.include_usage) json["usage"] = nullptr;
  return EventText(json);
}

}  // namespace

const char* FinishReason(StopReason reason) {
  return reason == StopReason::kLength || reason == StopReason::kContext ? "length" : "stop";
}

CompletionAnswer::CompletionAnswer(AnswerHead head) : head_(std::move(head)), said_(head_.choices) {}

std::string CompletionAnswer::Whole(const std::vector<AnswerChoice>& choices, const AnswerUsage& usage) {
  Json list = Json::array();
  for (size_t i = 0; i < choices.size(); ++i) {
    const AnswerChoice& choice = choices[i];
    Json json = {{"index", i},
                 {"logprobs", Logprobs(head_, choice.tokens, said_[i])},
                 {"finish_reason", FinishReason(choice.reason)}};
    if (head_.chat) {
      json["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    } else {
      json["text"] = head_.echo.empty() ? choice.text : head_.echo[i] + choice.text;
    }
    if (choice.confidence.has_value()) json["confidence"] = ConfidenceJson(*choice.confidence);
    AddNotes(choice.notes, json);
    AddAdapter(choice.adapter, json);
    list.push_back(std::move(json));
  }
  Json json = Base(head_, "chat.completion");
  json["choices"] = std::move(list);
  json["usage"] = UsageJson(usage);
  return JsonText(json) + "\n";
}

std::string CompletionAnswer::Begin() {
  std::string events;
  for (size_t i = 0; i < head_.choices; ++i) {
    if (head_.chat) events += Chunk(head_, i, {{"role", "assistant"}, {"content", ""}}, "", nullptr, nullptr);
    if (!head_.echo.empty()) events += Chunk(head_, i, nullptr, head_.echo[i], nullptr, nullptr);
  }
  return events;
}

std::string CompletionAnswer::Piece(size_t choice, const std::string& text,
                                    const std::vector<AnswerToken>& tokens) {
  return Chunk(head_, choice, {{"content", text}}, text, Logprobs(head_, tokens, said_[choice]), nullptr);
}

std::string CompletionAnswer::EndOfChoice(size_t choice, const AnswerChoice& all) {
  return Chunk(head_, choice, Json::object(), "", nullptr, FinishReason(all.reason), all.confidence,
               all.notes, all.adapter);
}

std::string CompletionAnswer::End(const AnswerUsage& usage) {
  if (!head_.include_usage) return kDoneEvent;
  Json json = Base(head_, "chat.completion.chunk");
  json["choices"] = Json::array();
  json["usage"] = UsageJson(usage);
  return EventText(json) + kDoneEvent;
}

std::string CompletionAnswer::Failed(const absl::Status& status) { return EventText(ErrorJson(status)); }

}  // namespace omni
