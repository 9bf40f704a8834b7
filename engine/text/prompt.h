// A prompt as the model's tokens.
#pragma once

#include <string_view>
#include <vector>

#include "engine/text/tokenizer.h"

namespace omni {

// A text begins after end-of-text, as in training; the bytes need not be valid UTF-8.
std::vector<TokenId> PromptTokens(const Tokenizer& tokenizer, std::string_view prompt);

}  // namespace omni
