// Which of the reads that wait is begun next.
#pragma once

#include <cstddef>
#include <cstdint>

namespace omni {

// The lower before the higher; among equals the first submitted.
enum class ReadUrgency : uint8_t {
  kAsked,    // somebody waits for it
  kKnown,    // somebody will ask for it
  kGuessed,  // somebody may
};
inline constexpr size_t kReadUrgencies = 3;

}  // namespace omni
