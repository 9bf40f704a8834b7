// The small JSON files of the state directory.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include <absl/status/statusor.h>
#include <nlohmann/json.hpp>

namespace omni {

// The object in the file; null if there is none. What is damaged, of another shape or no file at all is
// renamed to PATH.damaged (an older one goes), logged as state_file_damaged, and is then as good as not
// there: what is kept in such files is worth less than an error each time. An error only if the system
// refuses to read or rename.
absl::StatusOr<nlohmann::json> ReadStateFile(const std::string& path, int64_t most_bytes,
                                             const std::function<bool(const nlohmann::json&)>& has_its_shape);

}  // namespace omni
