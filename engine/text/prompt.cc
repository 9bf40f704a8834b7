#include "engine/text/prompt.h"

namespace omni {

std::vector<TokenId> PromptTokens(const Tokenizer& tokenizer, std::string_view prompt) {
  std::vector<TokenId> tokens = tokenizer.Encode(prompt);
  tokens.insert(tokens.begin(), Tokenizer::kEndOfText);
  return tokens;
}

}  // namespace omni
