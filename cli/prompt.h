// The prompt of a verb: from its argument, or "-" for standard input, as the model's tokens.
#pragma once

#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/tokenizer.h"

namespace omni::cli {

// Rejects an empty prompt, saying what to do.
absl::StatusOr<std::string> ReadPrompt(const std::string& argument);

// A text begins after end-of-text, as in training; the bytes need not be valid UTF-8.
std::vector<TokenId> PromptTokens(const Tokenizer& tokenizer, const std::string& prompt);

}  // namespace omni::cli
