// A chat: what is typed, what is answered, and what has been said so far.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>

#include "cli/chat/chat_model.h"
#include "cli/chat/line_reader.h"
#include "cli/chat/session_file.h"

namespace omni::cli {

// Answers go to standard output and all else to standard error. The references outlive it.
class Chat {
 public:
  struct Options {
    bool person = false;  // somebody is there: a mistake is said and forgiven, and the prompt is shown
    bool stats = false;   // rates after each answer
    std::function<bool()> interrupted = nullptr;  // whether the answer under way shall end
    std::function<void()> before_answer = nullptr, after_answer = nullptr;
    // Before the first line of a message is read: interrupts of what was done before it are over.
    std::function<void()> before_message = nullptr;
  };
  Chat(ChatModel& model, LineReader& lines, ChatSettings settings, Options options)
      : model_(model), lines_(lines), settings_(std::move(settings)), options_(std::move(options)) {}

  void SetSystem(const std::string& text);
  absl::Status Load(const std::string& path);
  // Says `first`, if it is not empty, and then what is read, until there is no more or /exit. Where nobody is
  // there, the first mistake ends it.
  absl::Status Run(const std::string& first);
  // Whether Run ended since an answer was stopped and nobody was there to go on.
  bool interrupted() const { return interrupted_; }

 private:
  struct Command {
    const char *name, *argument, *help;
    absl::Status (Chat::*run)(const std::string& argument);
  };
  static const Command kCommands[];

  bool ReadMessage(std::string& text);  // false: there is no more
  absl::Status Obey(const std::string& line);
  absl::Status Say(const std::string& text);
  // To the last message, a user's. `answered`: there is one now, if only the beginning of it.
  absl::Status Answer(bool& answered);
  bool HasExchange() const;

  absl::Status Help(const std::string&);
  absl::Status Clear(const std::string&);
  absl::Status System(const std::string& text);
  absl::Status Temperature(const std::string& value);
  absl::Status Seed(const std::string& value);
  absl::Status Retry(const std::string&);
  absl::Status Undo(const std::string&);
  absl::Status Save(const std::string& path);
  absl::Status LoadCommand(const std::string& path);
  absl::Status Tokens(const std::string&);
  absl::Status Exit(const std::string&);

  ChatModel& model_;
  LineReader& lines_;
  ChatSettings settings_;
  const Options options_;
  std::vector<ChatMessage> messages_;
  ChatReply last_;
  bool over_ = false, interrupted_ = false;
};

}  // namespace omni::cli
