// OpenAI's answers: what the swarm said, as JSON. Nothing here knows of sockets.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>

#include "actors/generate.h"
#include "cluster/http/http_server.h"

namespace omni {

// What every piece of one answer says.
struct AnswerHead {
  std::string id, model;
  int64_t created = 0;  // seconds since 1970
  bool chat = false;
  bool include_usage = false;  // of a stream: pieces say that there is none yet
};

struct AnswerToken {
  std::string bytes;  // may be part of a character
  float probability = 0;
};

struct AnswerUsage {
  int64_t prompt_tokens = 0, completion_tokens = 0;
};

// "stop" or "length". Of kCancelled there is none: such an answer is an error.
const char* FinishReason(StopReason reason);

// A whole answer. `tokens` null: the client did not ask for probabilities.
std::string WholeAnswer(const AnswerHead& head, const std::string& text,
                        const std::vector<AnswerToken>* tokens, StopReason reason, const AnswerUsage& usage);

// Of a stream, each as an event of its own ("data: ...\n\n"): a chat's first, text, the end, the usage.
std::string FirstEvent(const AnswerHead& head);
std::string TextEvent(const AnswerHead& head, const std::string& text,
                      const std::vector<AnswerToken>* tokens);
std::string LastEvent(const AnswerHead& head, StopReason reason);
std::string UsageEvent(const AnswerHead& head, const AnswerUsage& usage);
std::string ErrorEvent(const absl::Status& status);
inline constexpr char kDoneEvent[] = "data: [DONE]\n\n";

// {"error": {"message", "type", "param", "code"}} with the HTTP status that belongs to the status's code, and
// a hint when to come back where that helps.
HttpAnswer ErrorAnswer(const absl::Status& status);
// The same for what HTTP itself refuses.
HttpAnswer ErrorAnswer(int http_status, const std::string& message);

}  // namespace omni
