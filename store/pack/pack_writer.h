// Writes a model directory from any source, in one deterministic order and bounded memory (one expert of one
// layer, or one matrix, at a time).
#pragma once

#include <string>

#include <absl/status/status.h>

#include "store/pack/pack.h"
#include "store/pack/pack_source.h"

namespace omni {

absl::Status WriteModel(PackSource& source, const std::string& dir, const PackOptions& options);

}  // namespace omni
