#include "cluster/http/openai_answer.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include <absl/strings/str_cat.h>

#include "cluster/caller_limits.h"
#include "cluster/http/openai_request.h"
#include "engine/base/random.h"

namespace omni {
namespace {

using Json = nlohmann::json;

constexpr double kImpossible = -9999;

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
  if (kind.http_status == 429 || kind.http_status == 503) {
    const auto after = std::chrono::ceil<std::chrono::seconds>(RetryAfter(status));
    answer.headers.emplace_back("Retry-After", absl::StrCat(std::max<int64_t>(after.count(), 1)));
  }
  return answer;
}

Json TokenJson(const AnswerToken& token) {
  Json bytes = Json::array();
  for (const char c : token.bytes) bytes.push_back(static_cast<unsigned char>(c));
  return {
      {"token", token.bytes}, {"logprob", LogProbability(token.probability)}, {"bytes", std::move(bytes)}};
}

}  // namespace

HttpAnswer ErrorAnswer(const absl::Status& status) { return ErrorAnswer(status, KindOf(status)); }

HttpAnswer ErrorAnswer(int http_status, const std::string& message) {
  return ErrorAnswer(absl::UnknownError(message), KindOf(http_status));
}

Json ErrorJson(const absl::Status& status) { return ErrorJson(status, KindOf(status)); }

std::string EventText(const Json& json, std::string_view name) {
  const absl::string_view event(name.data(), name.size());
  return absl::StrCat(event.empty() ? "" : "event: ", event, event.empty() ? "" : "\n",
                      "data: ", JsonText(json), "\n\n");
}

double LogProbability(float p) { return p > 0 ? std::log(static_cast<double>(p)) : kImpossible; }

Json TokenList(const std::vector<AnswerToken>& tokens) {
  Json list = Json::array();
  for (const AnswerToken& token : tokens) {
    Json json = TokenJson(token), tops = Json::array();
    for (const AnswerToken& other : token.alternatives) tops.push_back(TokenJson(other));
    json["top_logprobs"] = std::move(tops);
    if (token.confidence.has_value()) json["confidence"] = ConfidenceJson(*token.confidence);
    AddNotes(token.notes, json);
    list.push_back(std::move(json));
  }
  return list;
}

Json ConfidenceJson(const TokenConfidence& confidence) {
  Json json = {{"confidence", confidence.confidence}};
  if (!confidence.looked.has_value()) return json;
  const PerspectiveVerdict& verdict = *confidence.looked;
  json["perspectives"] = kPerspectives;
  json["agreement"] = static_cast<float>(verdict.votes) / static_cast<float>(kPerspectives);
  json["disagreement"] = verdict.disagreement;
  json["disagree"] = verdict.disagree;
  json["uncertain"] = verdict.uncertain;
  json["changed"] = verdict.changed;
  return json;
}

Json ConfidenceJson(const ConfidenceSummary& summary) {
  return {{"mean", summary.mean()},         {"tokens", summary.tokens},
          {"looked", summary.looked},       {"disagreeing", summary.disagreeing},
          {"uncertain", summary.uncertain}, {"changed", summary.changed}};
}

void AddNotes(const NotesSummary& notes, Json& choice) {
  if (notes.projectable > 0) {
    choice["safety"] = {{"tokens", notes.projectable},
                        {"projected", notes.projected},
                        {"mean_distance", notes.mean_distance()},
                        {"largest_distance", notes.largest_distance}};
  }
  if (notes.remembering > 0) {
    choice["context_memory"] = {
        {"tokens", notes.remembering}, {"recalled", notes.recalled}, {"mean_weight", notes.mean_weight()}};
  }
  if (notes.asked > 0) choice["memory"] = {{"asked", notes.asked}, {"recalled", notes.remembered}};
}

void AddAdapter(const AdapterChoice& adapter, Json& choice) {
  if (!adapter.name.empty()) choice["adapter"] = {{"name", adapter.name}, {"hash", adapter.hash}};
}

void AddNotes(const TokenNotes& notes, Json& token) {
  if (notes.safety.has_value()) {
    token["safety"] = {{"distance", notes.safety->distance}, {"half_spaces", notes.safety->half_spaces}};
  }
  if (notes.contexts.has_value())
    token["context_memory"] = {{"weight", notes.contexts->weight}, {"order", notes.contexts->order}};
  if (notes.recall.has_value()) {
    token["memory"] = {{"found", notes.recall->found}};
    if (notes.recall->found) {
      token["memory"].update(
          {{"words", notes.recall->words}, {"begun", notes.recall->begun}, {"votes", notes.recall->votes}});
    }
  }
}

std::string NewAnswerId(const char* prefix) { return prefix + RandomHex(24); }

int64_t SecondsSince1970() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

}  // namespace omni
