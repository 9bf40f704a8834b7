// The items of a request's input as the messages of a conversation.
#pragma once

#include <vector>

#include <absl/status/status.h>

#include "cluster/http/chat_template.h"
#include "engine/base/json.h"

namespace omni::openai {

// A text, or a list of items: messages, and what was said between a client and a model that calls tools, of
// which calls become the assistant's messages and their outputs a tool's. Items that are no text for a model
// (its earlier reasoning, pictures it made, types that are not known) are passed over; a message whose
// content has something else than text, and a reference to what is not here, are refused.
absl::Status ReadInput(const nlohmann::json& input, std::vector<ChatMessage>& messages);

}  // namespace omni::openai
