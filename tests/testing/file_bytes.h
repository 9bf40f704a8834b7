// Whole files, as tests read and write them.
#pragma once

#include <fstream>
#include <ios>
#include <iterator>
#include <string>

namespace omni::testing {

inline std::string FileBytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void WriteBytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

}  // namespace omni::testing
