// Files that a user names to write results to.
#pragma once

#include <string>

#include <absl/status/status.h>

namespace omni::cli {

// Whether the file can be written or replaced, as far as that is known now: to be asked before work whose
// results would be lost. Nothing changes. Errors are those of WriteOutput and ReplaceFile.
absl::Status CheckResultFile(const std::string& path);

}  // namespace omni::cli
