#pragma once

#include <cstdint>
#include <string>

#include <absl/status/status.h>

namespace omni {

// To a file or pipe that waits. `path` is for the message. A write that takes less than it is given says
// nothing of why: the next one does.
absl::Status WriteAll(int fd, const std::string& path, const void* data, int64_t bytes);

}  // namespace omni
