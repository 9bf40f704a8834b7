#include "engine/decode/router.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace omni {

float Frac(float z) {
  const float f = z - std::floor(z);
  return f == 1.0f ? 0.0f : f;
}

float TorusDistanceSquared(const TorusPoint& z, const float* position) {
  float square[3];
  for (int axis = 0; axis < 3; ++axis) {
    const float direct = std::fabs(z[axis] - position[axis]);
    const float shortest = std::min(direct, 1.0f - direct);
    square[axis] = shortest * shortest;
  }
  return (square[0] + square[1]) + square[2];
}

TorusPoint Route(const kernels::Ops& ops, const float* route, const float* h, int64_t d) {
  TorusPoint z;
  for (int64_t axis = 0; axis < 3; ++axis) z[axis] = Frac(ops.dot(route + axis * d, h, d));
  return z;
}

ExpertId NearestExpert(const TorusPoint& z, const float* positions, const float* bias, int64_t experts) {
  float best = std::numeric_limits<float>::infinity();
  int64_t nearest = 0;
  for (int64_t e = 0; e < experts; ++e) {
    float distance = TorusDistanceSquared(z, positions + 3 * e);
    if (bias != nullptr) distance = distance - bias[e];
    if (distance < best) {
      best = distance;
      nearest = e;
    }
  }
  return ExpertId(static_cast<int32_t>(nearest));
}

}  // namespace omni
