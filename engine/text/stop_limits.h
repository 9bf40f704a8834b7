// What is taken of stop strings, by whatever door they come.
#pragma once

#include <cstddef>

namespace omni {

inline constexpr size_t kMostStopStrings = 64, kMostStopStringBytes = 4096;

}  // namespace omni
