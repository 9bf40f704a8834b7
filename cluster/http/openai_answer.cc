#include "cluster/http/openai_answer.h"

#include <cmath>

#include <absl/strings/str_cat.h>

#include "cluster/http/openai_request.h"
#include "engine/base/json.h"

namespace omni {
namespace {

using Json = nlohmann::json;

constexpr double kImpossible = -9999;  // what clients know as the logarithm of nothing

double LogProbability(float p) { return p > 0 ? std::log(static_cast<double>(p)) : kImpossible; }

Json Bytes(const std::string& bytes) {
  Json list = Json::array();
  for (const char c : bytes) list.push_back(static_cast<unsigned char>(c));
  return list;
}

Json Logprobs(bool chat, const std::vector<AnswerToken>* tokens) {
  if (tokens == nullptr) return nullptr;
  if (chat) {
    Json content = Json::array();
    for (const AnswerToken& token : *tokens) {
      content.push_back({{"token", token.bytes},
                         {"logprob", LogProbability(token.probability)},
                         {"bytes", Bytes(token.bytes)},
                         {"top_logprobs", Json::array()}});
    }
    return {{"content", std::move(content)}, {"refusal", nullptr}};
  }
  Json texts = Json::array(), values = Json::array(), tops = Json::array(), offsets = Json::array();
  for (const AnswerToken& token : *tokens) {
    texts.push_back(token.bytes);
    values.push_back(LogProbability(token.probability));
    tops.push_back(nullptr);
  }
  return {{"tokens", std::move(texts)},
          {"token_logprobs", std::move(values)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", nullptr}};
}

Json UsageJson(const AnswerUsage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", 0}}},
          {"completion_tokens_details", {{"reasoning_tokens", 0}}}};
}

std::string Event(const Json& json) { return absl::StrCat("data: ", JsonText(json), "\n\n"); }

Json Base(const AnswerHead& head, const char* chat_object) {
  return {{"id", head.id},
          {"object", head.chat ? chat_object : "text_completion"},
          {"created", head.created},
          {"model", head.model}};
}

// A chat's text is a message or a delta of it, a completion's stands alone.
std::string Chunk(const AnswerHead& head, Json delta, const std::string& text,
                  const std::vector<AnswerToken>* tokens, const Json& reason) {
  Json choice = {{"index", 0}, {"logprobs", Logprobs(head.chat, tokens)}, {"finish_reason", reason}};
  if (head.chat) {
    choice["delta"] = std::move(delta);
  } else {
    choice["text"] = text;
  }
  Json json = Base(head, "chat.completion.chunk");
  json["choices"] = Json::array({std::move(choice)});
  if (head.include_usage) json["usage"] = nullptr;
  return Event(json);
}

struct Kind {
  int http_status;
  const char* type;
};

Kind KindOf(int http_status) {
  if (http_status == 429) return {http_status, "rate_limit_error"};
  return {http_status, http_status < 500 ? "invalid_request_error" : "server_error"};
}

Kind KindOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return KindOf(400);
    case absl::StatusCode::kUnauthenticated:
      return KindOf(401);
    case absl::StatusCode::kPermissionDenied:
      return KindOf(403);
    case absl::StatusCode::kNotFound:
      return KindOf(404);
    case absl::StatusCode::kResourceExhausted:
      return KindOf(429);
    case absl::StatusCode::kUnavailable:
      return KindOf(503);
    case absl::StatusCode::kDeadlineExceeded:
      return KindOf(504);
    default:
      return KindOf(500);
  }
}

Json TextOrNull(const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); }

Json ErrorJson(const absl::Status& status, const Kind& kind) {
  std::string code = ErrorCode(status);
  if (code.empty() && kind.http_status == 429) code = "rate_limit_exceeded";
  if (code.empty() && kind.http_status == 401) code = "invalid_api_key";
  return {{"error",
           {{"message", std::string(status.message())},
            {"type", kind.type},
            {"param", TextOrNull(ErrorParam(status))},
            {"code", TextOrNull(code)}}}};
}

HttpAnswer ErrorAnswer(const absl::Status& status, const Kind& kind) {
  HttpAnswer answer;
  answer.status = kind.http_status;
  answer.body = JsonText(ErrorJson(status, kind)) + "\n";
  if (kind.http_status == 429 || kind.http_status == 503) answer.headers.emplace_back("Retry-After", "1");
  return answer;
}

}  // namespace

const char* FinishReason(StopReason reason) {
  return reason == StopReason::kLength || reason == StopReason::kContext ? "length" : "stop";
}

std::string WholeAnswer(const AnswerHead& head, const std::string& text,
                        const std::vector<AnswerToken>* tokens, StopReason reason, const AnswerUsage& usage) {
  Json choice = {
      {"index", 0}, {"logprobs", Logprobs(head.chat, tokens)}, {"finish_reason", FinishReason(reason)}};
  if (head.chat) {
    choice["message"] = {{"role", "assistant"}, {"content", text}, {"refusal", nullptr}};
  } else {
    choice["text"] = text;
  }
  Json json = Base(head, "chat.completion");
  json["choices"] = Json::array({std::move(choice)});
  json["usage"] = UsageJson(usage);
  return JsonText(json) + "\n";
}

std::string FirstEvent(const AnswerHead& head) {
  return Chunk(head, {{"role", "assistant"}, {"content", ""}}, "", nullptr, nullptr);
}

std::string TextEvent(const AnswerHead& head, const std::string& text,
                      const std::vector<AnswerToken>* tokens) {
  return Chunk(head, {{"content", text}}, text, tokens, nullptr);
}

std::string LastEvent(const AnswerHead& head, StopReason reason) {
  return Chunk(head, Json::object(), "", nullptr, FinishReason(reason));
}

std::string UsageEvent(const AnswerHead& head, const AnswerUsage& usage) {
  Json json = Base(head, "chat.completion.chunk");
  json["choices"] = Json::array();
  json["usage"] = UsageJson(usage);
  return Event(json);
}

std::string ErrorEvent(const absl::Status& status) { return Event(ErrorJson(status, KindOf(status))); }

HttpAnswer ErrorAnswer(const absl::Status& status) { return ErrorAnswer(status, KindOf(status)); }

HttpAnswer ErrorAnswer(int http_status, const std::string& message) {
  return ErrorAnswer(absl::UnknownError(message), KindOf(http_status));
}

}  // namespace omni
