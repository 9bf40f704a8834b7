// Network namespaces without names, and programs that are run in one.
#pragma once

#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni::testing {

// An open file that is the namespace; closed by exec.
absl::StatusOr<int> MakeNetworkNamespace();

// A TAP device of that name in the namespace, as an open file that does not block: one frame a read or write.
absl::StatusOr<int> OpenTap(int network_namespace, const std::string& name);

// The path of a program, in $PATH or where an administrator's are; empty: there is none.
std::string FindProgram(const std::string& name);

// Runs it to its end. What it says of a failure is in the error.
absl::Status RunInNamespace(int network_namespace, std::vector<std::string> command);

}  // namespace omni::testing
