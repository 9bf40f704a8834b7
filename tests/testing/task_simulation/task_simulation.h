// A task server, who hands tasks in and who runs them, and what befalls them, from one seed.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "engine/base/simulated.h"
#include "tests/testing/task_simulation/task_faults.h"

namespace omni::simulation {

struct TaskSimulationOptions {
  bool trace = false;  // what happens, on standard output
  TaskPlant plant = TaskPlant::kNone;
};

struct TaskSimulationResult {
  std::string failure;  // empty: all was well
  TaskFaultCounts faults{};
  std::array<bool, static_cast<size_t>(TaskMark::kCount)> marks{};
  int64_t events = 0, tasks = 0, acknowledged = 0;
  milliseconds simulated{0};
};

TaskSimulationResult SimulateTasks(uint64_t seed, const TaskSimulationOptions& options = {});

const char* NameOf(TaskMark mark);
const char* NameOf(TaskPlant plant);
const char* NameOf(TaskFault fault);

}  // namespace omni::simulation
