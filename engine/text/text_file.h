// Whole text files, plain or .xz.
#pragma once

#include <string>

#include <absl/status/statusor.h>

namespace omni {

// The bytes of `path`; a name ending in .xz is decompressed. Errors name the file.
absl::StatusOr<std::string> ReadText(const std::string& path);
// All of standard input.
absl::StatusOr<std::string> ReadStdin();

}  // namespace omni
