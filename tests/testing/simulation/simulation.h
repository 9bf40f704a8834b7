// A cluster and what befalls it, from one seed.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "engine/base/simulated.h"
#include "tests/testing/simulation/world.h"

namespace omni::simulation {

struct SimulationOptions {
  bool trace = false;  // what happens, on standard output
  Plant plant = Plant::kNone;
};

struct SimulationResult {
  std::string failure;  // empty: all was well
  FaultCounts faults{};
  std::array<bool, static_cast<size_t>(Mark::kCount)> marks{};
  int64_t events = 0, tokens = 0;
  milliseconds simulated{0};
  milliseconds settling{0};  // of that, from the last fault's end until all was well
};

SimulationResult Simulate(uint64_t seed, const SimulationOptions& options = {});

const char* NameOf(Mark mark);
const char* NameOf(Plant plant);

}  // namespace omni::simulation
