// A chat as a file (docs/formats/chat.md).
#pragma once

#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cli/chat/chat_model.h"

namespace omni::cli {

struct ChatSession {
  std::vector<ChatMessage> messages;
  ChatSettings settings;
  std::string state;  // ChatModel::SaveState's
};

// Whole or not at all. Errors name the file.
absl::Status SaveChat(const std::string& path, const ChatSession& session);
// DataLoss: it is none, or damaged.
absl::StatusOr<ChatSession> LoadChat(const std::string& path);

std::string FormatChat(const ChatSession& session);
// Errors are to be read behind the file's name.
absl::StatusOr<ChatSession> ParseChat(std::string_view bytes);

}  // namespace omni::cli
