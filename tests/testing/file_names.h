#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace omni::testing {

// Of what stands in a folder, in no order.
inline std::vector<std::string> Names(const std::string& dir) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) names.push_back(entry.path().filename());
  return names;
}

}  // namespace omni::testing
