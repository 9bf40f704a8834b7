// What `omni eval calibration` measures and fits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "engine/around/perspectives.h"
#include "engine/decode/worker_pool.h"
#include "store/model/model.h"

namespace omni::cli {

struct CalibrationArgs {
  bool fit = false;    // the model's calibration is made of the texts, and nothing measured
  int64_t tokens = 0;  // 0: all
  PerspectiveSettings perspectives;
  std::string svg;  // path; empty: none
};

// Prints what it found. texts are joined as documents.
absl::Status EvalCalibration(const std::string& path, Model& model, WorkerPool& pool,
                             const std::vector<std::string>& texts, const CalibrationArgs& args, bool json);

}  // namespace omni::cli
