// OpenAI's requests for responses, from their JSON to what the swarm is asked. Nothing here knows of sockets.
//
// Errors as in openai_request.h.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "actors/generate.h"
#include "cluster/http/chat_template.h"
#include "cluster/http/openai_request.h"
#include "engine/base/json.h"

namespace omni {

struct ResponseRequest {
  bool stream = false, store = true, logprobs = false;
  bool bounded = false;      // the client said how long the answer may be
  GenerateRequest generate;  // complete
  // The conversation up to the answer, the instructions excepted: what a next response goes on from.
  std::vector<ChatMessage> messages;
  // What the response repeats of its request: "instructions", "max_output_tokens", "metadata",
  // "parallel_tool_calls", "previous_response_id", "temperature", "tool_choice", "top_logprobs", "top_p".
  nlohmann::json echo;
};

// The conversation of a stored response, its answer included; null: there is none of this id.
using FindResponse = std::function<std::shared_ptr<const std::vector<ChatMessage>>(const std::string& id)>;

// The answer has up to kChatTokens where the client does not say.
absl::StatusOr<ResponseRequest> ReadResponse(std::string_view body, const ServedModel& model, uint64_t seed,
                                             const FindResponse& find);

// A response of this id that is not here.
absl::Status NoSuchResponse(std::string_view param, const std::string& id);

}  // namespace omni
