// Errors of the operating system as statuses.
#pragma once

#include <string>
#include <string_view>

#include <absl/status/status.h>

namespace omni {

// "PATH: cannot ACTION: <strerror(error)>", with a hint where the errno has an obvious cure. Never DataLoss:
// that is for bytes which are not what they should be.
absl::Status SystemError(const std::string& path, std::string_view action, int error);

}  // namespace omni
