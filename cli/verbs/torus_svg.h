// A picture of the torus: which experts a text visited, and how it walked from one to the next.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>

#include "engine/base/ids.h"
#include "engine/model/config.h"

namespace omni::cli {

// From one expert to another, and how often consecutive tokens of a layer went so.
using Steps = std::map<std::pair<ExpertId, ExpertId>, int64_t>;

// One grid of cells per slice of the lattice's third axis; each cell is an expert, shaded and labelled by its
// count, with the regions outlined, and a line for each of the most frequent steps between two experts, the
// stronger the more often it was taken. visits: [experts].
std::string TorusSvg(const ModelConfig& config, std::span<const int64_t> visits, const Steps& steps);

}  // namespace omni::cli
