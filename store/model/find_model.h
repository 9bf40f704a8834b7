// Which model a command means.
#pragma once

#include <string>

#include <absl/status/statusor.h>

namespace omni {

// The running program's directory; empty if the system does not tell.
std::string ProgramDir();

// `given` (from -m or OMNI_MODEL) if not empty; else the shipped model: models/mini two levels above the
// program (a build folder inside the source tree), share/omni/models/mini beside an installed bin, or
// models/mini under $XDG_DATA_HOME/omni. Errors list the places.
absl::StatusOr<std::string> FindModel(const std::string& given);

}  // namespace omni
