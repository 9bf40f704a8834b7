// The loss curve of a run as SVG.
#pragma once

#include <string>

#include <absl/status/status.h>

namespace omni::train {

// Reads RUN/log.jsonl (as Train writes it) and draws training and validation loss over tokens into
// `svg_path`, written whole or not at all.
absl::Status PlotLog(const std::string& log_path, const std::string& svg_path);

}  // namespace omni::train
