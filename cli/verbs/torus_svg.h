// A picture of the torus: which experts a text visited.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "engine/model/config.h"

namespace omni::cli {

// One grid of cells per slice of the lattice's third axis; each cell is an expert, shaded and labelled by its
// count, with the regions outlined. visits: [experts].
std::string TorusSvg(const ModelConfig& config, std::span<const int64_t> visits);

}  // namespace omni::cli
