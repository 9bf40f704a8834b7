// OpenAI's requests for completions and chats, from their JSON to what the swarm is asked. Nothing here knows
// of sockets.
//
// Errors are InvalidArgument or NotFound, whose message is for the client; ErrorParam says which field of the
// request it is about, ErrorCode OpenAI's name for it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/generate.h"
#include "cluster/http/chat_template.h"
#include "engine/text/tokenizer.h"

namespace omni {

// What requests are read against.
struct ServedModel {
  std::string name;
  int64_t max_context = 0;                 // tokens of prompt and answer together
  int64_t most_tokens = int64_t{1} << 40;  // of one answer, that a client may ask for
  const Tokenizer* tokenizer = nullptr;
  ChatTemplate chat;
};

struct CompletionRequest {
  bool chat = false, stream = false, include_usage = false, logprobs = false;
  // One for each choice of the answer, complete; at least one. Those of one prompt differ in their seeds, of
  // which the first has the request's.
  std::vector<GenerateRequest> choices;
  std::vector<std::string> echo;  // what each choice begins with; empty: none does
  int64_t prompt_tokens = 0;      // of every prompt once
};

// The defaults are OpenAI's (temperature 1, top_p 1, 16 tokens of a completion), but a chat's answer has up
// to kChatTokens where the client does not say. A request without a seed draws one from `seed`.
inline constexpr int64_t kCompletionTokens = 16, kChatTokens = 1024;
inline constexpr int64_t kMostChoices = 128;  // of an answer
absl::StatusOr<CompletionRequest> ReadCompletion(std::string_view body, const ServedModel& model,
                                                 uint64_t seed);
absl::StatusOr<CompletionRequest> ReadChat(std::string_view body, const ServedModel& model, uint64_t seed);

std::string ErrorParam(const absl::Status& status);  // empty: of no field
std::string ErrorCode(const absl::Status& status);   // empty: it has no name

}  // namespace omni
