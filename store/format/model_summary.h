// What can be said of a packed model without loading it.
#pragma once

#include <string>

#include <absl/status/statusor.h>

#include "engine/model/config.h"
#include "store/format/model_stats.h"

namespace omni {

struct ModelSummary {
  ModelConfig config;
  std::string model_hash;
  ModelStats stats;
};

// Reads the manifests, the tile tables and the pack files' headers of the model directory `path`; of the
// other files only the sizes are checked (store/verify/verify.h checks their bytes). The figures are those
// that a loaded model gives.
absl::StatusOr<ModelSummary> SummarizeModel(const std::string& path);

}  // namespace omni
