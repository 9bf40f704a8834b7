// How the messages of a chat become one text for the model to go on with.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "store/format/chat_template_file.h"

namespace omni {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant" or "tool"
  std::string content;
  // Of an assistant: the content is what the model wrote behind the template's `answer`, to the byte, so that
  // a context which ends with it can be gone on with.
  bool as_written = false;
};

// The file chat_template.json of a model's directory:
//
//     {"system": "{content}\n\n", "user": "Question: {content}\n", "assistant": "Answer: {content}\n",
//      "answer": "Answer:", "stops": ["\nQuestion:"]}
//
// Each message is its role's text with {content} replaced, `answer` comes after the last, and the answer ends
// before any of `stops`. A "tool" may be given too; without it, those messages are written as a user's.
class ChatTemplate {
 public:
  static constexpr const char* kFile = kChatTemplateFile;

  ChatTemplate();  // plain names before each message
  static absl::StatusOr<ChatTemplate> Parse(std::string_view json);
  // Of a model directory: its file's, or the plain one where there is none.
  static absl::StatusOr<ChatTemplate> Load(const std::string& model_directory);

  bool from_file() const { return from_file_; }
  std::string Render(const std::vector<ChatMessage>& messages) const;
  const std::vector<std::string>& stops() const { return stops_; }
  std::string Describe() const;  // as JSON

 private:
  std::map<std::string, std::string> texts_;  // by role
  std::string answer_;
  std::vector<std::string> stops_;
  bool from_file_ = false;
};

}  // namespace omni
