// What OpenAI's APIs have in common in their answers. Nothing here knows of sockets.
#pragma once

#include <string>
#include <string_view>

#include <absl/status/status.h>

#include "cluster/http/answer_form.h"
#include "cluster/http/http_server.h"
#include "engine/base/json.h"

namespace omni {

// {"error": {"message", "type", "param", "code"}} with the HTTP status that belongs to the status's code, and
// a hint when to come back where that helps.
HttpAnswer ErrorAnswer(const absl::Status& status);
// The same for what HTTP itself refuses.
HttpAnswer ErrorAnswer(int http_status, const std::string& message);
nlohmann::json ErrorJson(const absl::Status& status);

// As an event: "data: ...\n\n", after "event: NAME\n" if it has a name.
std::string EventText(const nlohmann::json& json, std::string_view name = {});

double LogProbability(float probability);  // of nothing: -9999, as clients know it
// Each token with "token", "logprob", "bytes" and "top_logprobs", and with perspectives "confidence".
nlohmann::json TokenList(const std::vector<AnswerToken>& tokens);

// "confidence", and of a token that was looked at "perspectives", "agreement", "disagreement", "disagree",
// "uncertain" and "changed".
nlohmann::json ConfidenceJson(const TokenConfidence& confidence);
// "mean", and how many "tokens" there are, and of them "looked", "disagreeing", "uncertain" and "changed".
nlohmann::json ConfidenceJson(const ConfidenceSummary& summary);

// Into an answer's choice, where there were any: "safety" with "tokens", "projected", "mean_distance" and
// "largest_distance"; "context_memory" with "tokens", "recalled" and "mean_weight"; "memory" with
// "asked" and "recalled".
void AddNotes(const NotesSummary& notes, nlohmann::json& choice);
// Into an answer's choice, if there was one: "adapter" with "name" and "hash".
void AddAdapter(const AdapterChoice& adapter, nlohmann::json& choice);
// Into a token: "safety" with "distance" and "half_spaces"; "context_memory" with "weight" and "order";
// "memory" with "found", and if it is "words", "begun" and "votes".
void AddNotes(const TokenNotes& notes, nlohmann::json& token);

// A new id of an answer.
std::string NewAnswerId(const char* prefix);
int64_t SecondsSince1970();

}  // namespace omni
