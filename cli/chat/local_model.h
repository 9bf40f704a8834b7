// The model of this process as it answers in a chat.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "actors/session_snapshot.h"
#include "cli/chat/chat_model.h"
#include "cluster/node.h"

namespace omni::cli {

// A chat's text grows at its end, and the state after each answer is kept: what is asked next goes on from
// the longest context that the new text begins with, so that no message is computed twice. Two states are
// kept, one for the next message and one for another answer to the last; further back the text is computed
// anew.
class LocalModel final : public ChatModel {
 public:
  // `asks`: what every answer is asked with, beside what Answer fills in. The node outlives it.
  LocalModel(Node& node, ChatTemplate chat, GenerateRequest asks = {})
      : node_(node), chat_(std::move(chat)), asks_(std::move(asks)) {}

  absl::Status Answer(const std::vector<ChatMessage>& messages, const ChatSettings& settings,
                      const OnText& on_text, ChatReply& reply) override;
  std::string SaveState(const std::vector<ChatMessage>& messages) override;
  // A state that was computed with another adapter, or with what it was before it learned more, is of no use.
  absl::Status RestoreState(std::string_view bytes) override;

 private:
  struct Kept {
    SnapshotPtr snapshot;
    std::string text;  // of its tokens
  };
  // What `text` goes on from, and how many of its bytes that is: with all its tokens, or without the last.
  struct Match {
    const Kept* kept = nullptr;  // null: from nothing
    bool whole = false;
    size_t bytes = 0;
  };
  Match Longest(std::string_view text) const;
  void Keep(SnapshotPtr snapshot);
  absl::Status SameAdapter(const AdapterChoice& of_state);

  Node& node_;
  const ChatTemplate chat_;
  const GenerateRequest asks_;
  std::deque<Kept> kept_;  // the latest last
};

}  // namespace omni::cli
