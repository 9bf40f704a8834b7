// A picture of how confidences come true.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "engine/around/calibration_metrics.h"

namespace omni::cli {

// Accuracy over confidence, a line with a point for every bin of each method, and the diagonal on which they
// would lie if they were true. methods: a name and its report, at most five.
std::string ReliabilitySvg(const std::vector<std::pair<std::string, const CalibrationReport*>>& methods);

}  // namespace omni::cli
