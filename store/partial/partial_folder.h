// The folder `partial` of a directory that holds a part of a model: its lock, and what gathers in it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/base/open_file.h"

namespace omni {

// Holds the lock of `dir`, whose folder is there, for as long as the descriptor lives. FailedPrecondition:
// another process fills the directory.
absl::StatusOr<FileDescriptor> LockPartial(const std::string& dir);

// Where the file `name` of the model gathers (IncomingFile); makes the folder for it.
absl::StatusOr<std::string> IncomingPath(const std::string& dir, const std::string& name);

// All of `bytes` at `offset` of the open file `path`.
absl::Status WriteFully(int fd, const std::string& path, int64_t offset, std::string_view bytes);

}  // namespace omni
