// Where the memory of texts is that a command line means.
#pragma once

#include <string>

#include <absl/status/statusor.h>

namespace omni::cli {

// `given`, or where that is empty the one below the state directory. Not created here.
absl::StatusOr<std::string> MemoryFolder(const std::string& given);

}  // namespace omni::cli
