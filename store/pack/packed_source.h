// A packed model as the source of another: its bytes as they are, each checked before it is handed on.
#pragma once

#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "store/pack/pack_source.h"

namespace omni {

// Shared weights are loaded whole; of the experts only the index of their tiles and two tiles are in memory
// at a time. Errors name file, tile, expert and layer.
absl::StatusOr<std::unique_ptr<PackSource>> OpenPackedSource(const std::string& dir);

}  // namespace omni
