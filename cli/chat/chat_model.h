// Whoever answers in a chat: a model of this process, a server, a cluster.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>

#include "cluster/http/chat_template.h"
#include "engine/text/sampler.h"

namespace omni::cli {

struct ChatSettings {
  SamplerSettings sampler;
  int64_t max_tokens = 1024;  // of one answer
  std::vector<std::string> stops;
};

struct ChatReply {
  ChatMessage message;  // the answer, as far as it came
  std::string reason;   // why it ended; "cancelled": on_text wanted no more
  // Tokens of the context that were known already, that were computed for this answer, and that it has;
  // nothing: whoever answered did not say.
  std::optional<int64_t> kept, computed, generated;
  std::chrono::nanoseconds first{0}, rest{0};  // to the first text, and from there to the last
  std::vector<std::string> around;             // what acted around its tokens, in lines for people
};

// One thread at a time.
class ChatModel {
 public:
  virtual ~ChatModel() = default;

  // Called with each piece of text, and with nothing now and then; false ends the answer.
  using OnText = std::function<bool(std::string_view)>;
  // The answer to `messages`, of which the last is a user's. After an error `reply` has what came before it.
  virtual absl::Status Answer(const std::vector<ChatMessage>& messages, const ChatSettings& settings,
                              const OnText& on_text, ChatReply& reply) = 0;

  // What it takes to go on with these messages, of which the last is an assistant's, without computing again
  // what has been computed, and nothing of what is not among them; empty: nothing of the kind is kept here.
  virtual std::string SaveState(const std::vector<ChatMessage>&) { return {}; }
  // What SaveState gave. An error says why it is of no use here; the messages alone are enough.
  virtual absl::Status RestoreState(std::string_view) {
    return absl::UnimplementedError("whoever answers keeps no state here");
  }
};

}  // namespace omni::cli
