// The torus router: where a row lands, and which expert is nearest.
#pragma once

#include <array>
#include <cstdint>

#include "engine/base/ids.h"
#include "kernels/op.h"

namespace omni {

using TorusPoint = std::array<float, 3>;  // each axis in [0, 1), wrapping

float Frac(float z);  // z - floor(z); a result that rounds to 1 becomes 0

// (dx^2 + dy^2) + dz^2, each operation rounded, with d = min(|z - p|, 1 - |z - p|).
float TorusDistanceSquared(const TorusPoint& z, const float* position);

// frac(W h): route is [3, d], h is [d]; each axis is one fixed-shape dot product.
TorusPoint Route(const kernels::Ops& ops, const float* route, const float* h, int64_t d);

// The expert of least squared distance, less its bias if there is one; positions are [experts, 3], bias
// [experts] or null, experts >= 1. The lowest id wins equality, and a point that is not a number goes to
// expert 0.
ExpertId NearestExpert(const TorusPoint& z, const float* positions, const float* bias, int64_t experts);

}  // namespace omni
