// The prompt of a verb: from its argument, or "-" for standard input.
#pragma once

#include <string>

#include <absl/status/statusor.h>

namespace omni::cli {

// Rejects an empty prompt, saying what to do.
absl::StatusOr<std::string> ReadPrompt(const std::string& argument);
// The bytes of a text file, plain or .xz; likewise.
absl::StatusOr<std::string> ReadPromptFile(const std::string& path);

}  // namespace omni::cli
