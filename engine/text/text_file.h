// Texts to measure and to train with, whole: plain, or compressed with xz.
#pragma once

#include <string>

#include <absl/status/statusor.h>

namespace omni {

// The bytes of `path`; what xz has compressed is decompressed, whatever the name is. Errors name the file and
// what to do. Refused are what other programs have compressed or is named so, folders, devices but terminals,
// and pipes that no program has opened to write: with one that has it waits for the end.
absl::StatusOr<std::string> ReadText(const std::string& path);
// All of standard input, likewise.
absl::StatusOr<std::string> ReadStdinText();
// All of standard input, as it is.
absl::StatusOr<std::string> ReadStdin();

}  // namespace omni
