// Whether all records of tasks agree with each other.
#pragma once

#include <string>

#include "tests/testing/task_simulation/sim_records.h"

namespace omni::simulation {

// What is wrong; empty: nothing.
std::string ProblemOf(const Records& records);

}  // namespace omni::simulation
