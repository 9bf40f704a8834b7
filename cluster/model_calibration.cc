#include "cluster/model_calibration.h"

#include <utility>

#include "engine/base/log.h"

namespace omni {

std::optional<Calibration> CalibrationBeside(const std::string& model_directory,
                                             const std::string& model_hash) {
  absl::StatusOr<std::optional<Calibration>> read = ReadCalibration(model_directory, model_hash);
  if (read.ok()) return *std::move(read);
  LogWarning("calibration_not_used", "confidences are not calibrated: {reason}",
             {{"reason", read.status().message()}});
  return std::nullopt;
}

}  // namespace omni
