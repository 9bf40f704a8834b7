// OpenAI's answers to completions and chats.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/http/answer_form.h"

namespace omni {

// "stop" or "length". Of kCancelled there is none: such an answer is an error.
const char* FinishReason(StopReason reason);

// What every piece of one answer says.
struct AnswerHead {
  std::string id, model;
  int64_t created = 0;  // seconds since 1970
  bool chat = false;
  bool include_usage = false;  // of a stream: it ends with the usage, and pieces say that there is none yet
  bool logprobs = false;
  size_t choices = 1;
  std::vector<std::string> echo;  // what each choice of a completion begins with; empty: none does
};

class CompletionAnswer final : public AnswerForm {
 public:
  explicit CompletionAnswer(AnswerHead head);
  std::string Whole(const std::vector<AnswerChoice>& choices, const AnswerUsage& usage) override;
  std::string Begin() override;
  std::string Piece(size_t choice, const std::string& text, const std::vector<AnswerToken>& tokens) override;
  std::string EndOfChoice(size_t choice, const AnswerChoice& all) override;
  std::string End(const AnswerUsage& usage) override;
  std::string Failed(const absl::Status& status) override;

 private:
  const AnswerHead head_;
  std::vector<int64_t> said_;  // of each choice of a stream: characters of its tokens
};

}  // namespace omni
