// Of those who do the work of tasks.
#pragma once

#include <cstdint>
#include <string>

namespace omni {

struct TaskPlaces {
  std::string executor, target;  // "*": any
  std::string node;
  int32_t slots = 0, running = 0;  // tasks at once
  std::string description;
};

}  // namespace omni
