// Places of experts relative to one another on the lattice, whose axes all wrap around.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "engine/model/config.h"

namespace omni {

inline std::array<int64_t, 3> TorusCell(const ModelConfig& config, int64_t expert) {
  const auto& n = config.lattice;
  return {expert % n[0], expert / n[0] % n[1], expert / n[0] / n[1]};
}

// The step from one expert to another, as the number of the expert that the same step reaches from expert 0.
inline int64_t TorusOffset(const ModelConfig& config, int64_t from, int64_t to) {
  const auto& n = config.lattice;
  const auto a = TorusCell(config, from), b = TorusCell(config, to);
  const auto step = [&](size_t axis) { return (b[axis] - a[axis] + n[axis]) % n[axis]; };
  return step(0) + n[0] * (step(1) + n[1] * step(2));
}

// Hops between neighbours: Manhattan distance, each axis the shorter way round.
inline int64_t TorusDistance(const ModelConfig& config, int64_t from, int64_t to) {
  const auto cell = TorusCell(config, TorusOffset(config, from, to));
  int64_t hops = 0;
  for (size_t axis = 0; axis < 3; ++axis) hops += std::min(cell[axis], config.lattice[axis] - cell[axis]);
  return hops;
}

}  // namespace omni
