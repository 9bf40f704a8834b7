// OpenAI's requests, from their JSON to what the swarm is asked. Nothing here knows of sockets.
//
// Errors are InvalidArgument or NotFound, whose message is for the client; ErrorParam says which field of the
// request it is about, ErrorCode OpenAI's name for it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/generate.h"
#include "cluster/http/chat_template.h"
#include "engine/text/tokenizer.h"

namespace omni {

// What requests are read against.
struct ServedModel {
  std::string name;
  int64_t max_context = 0;  // tokens of prompt and answer together
  const Tokenizer* tokenizer = nullptr;
  ChatTemplate chat;
};

struct CompletionRequest {
  bool chat = false, stream = false, include_usage = false, logprobs = false;
  GenerateRequest generate;  // complete
};

// The defaults are OpenAI's (temperature 1, top_p 1, 16 tokens of a completion), but a chat's answer has up
// to kChatTokens where the client does not say. A request without a seed draws one from `seed`.
inline constexpr int64_t kCompletionTokens = 16, kChatTokens = 1024;
absl::StatusOr<CompletionRequest> ReadCompletion(std::string_view body, const ServedModel& model,
                                                 uint64_t seed);
absl::StatusOr<CompletionRequest> ReadChat(std::string_view body, const ServedModel& model, uint64_t seed);

std::string ErrorParam(const absl::Status& status);  // empty: of no field
std::string ErrorCode(const absl::Status& status);   // empty: it has no name

}  // namespace omni
