// What tells a cluster from another of its name.
#pragma once

#include <random>
#include <string>

#include <absl/strings/str_format.h>

namespace omni {

inline std::string NewClusterId() {
  std::random_device random;
  return absl::StrFormat("%08x%08x%08x%08x", random(), random(), random(), random());
}

}  // namespace omni
