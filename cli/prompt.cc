#include "cli/prompt.h"

#include "cli/text_file.h"
#include "cli/verb.h"

namespace omni::cli {

absl::StatusOr<std::string> ReadPrompt(const std::string& argument) {
  if (argument != "-") {
    if (!argument.empty()) return argument;
    return UsageError("the prompt is empty; give some text, or - to read it from standard input");
  }
  absl::StatusOr<std::string> text = ReadStdin();
  if (text.ok() && text->empty()) return UsageError("the prompt is empty: nothing came from standard input");
  return text;
}

std::vector<TokenId> PromptTokens(const Tokenizer& tokenizer, const std::string& prompt) {
  std::vector<TokenId> tokens = tokenizer.Encode(prompt);
  tokens.insert(tokens.begin(), Tokenizer::kEndOfText);
  return tokens;
}

}  // namespace omni::cli
