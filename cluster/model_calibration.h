// The calibration that lies beside an open model.
#pragma once

#include <optional>
#include <string>

#include "engine/around/calibration.h"

namespace omni {

// Nothing if there is none, or if it cannot be used, which is then logged: confidences are what they are
// without one.
std::optional<Calibration> CalibrationBeside(const std::string& model_directory,
                                             const std::string& model_hash);

}  // namespace omni
