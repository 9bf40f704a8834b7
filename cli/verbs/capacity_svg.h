// A picture of what a memory holds.
#pragma once

#include <string>
#include <vector>

#include "engine/around/memory_capacity.h"

namespace omni::cli {

// The share of keys whose value comes back over the number of associations, on a logarithmic axis: what was
// measured as points, what theory says as lines, with exact keys and with a tenth of their bits wrong.
// points: two or more, ascending.
std::string CapacitySvg(const std::vector<CapacityPoint>& points);

}  // namespace omni::cli
