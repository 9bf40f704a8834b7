// The file of polytopes that a command line names.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/around/safety_file.h"

namespace omni::cli {

inline constexpr int64_t kMostPolytopeBytes = int64_t{8} << 30;

// Whether they fit a model is asked when that is open (PolytopeSet::Fits).
absl::StatusOr<std::shared_ptr<const PolytopeSet>> LoadPolytopes(const std::string& path);

// The words of a file, one a line; empty lines and the spaces around them do not count. No path: none.
absl::StatusOr<std::vector<std::string>> ReadWords(const std::string& path);

}  // namespace omni::cli
