#include "cluster/model_name.h"

#include <filesystem>

namespace omni {

std::string ModelName(const std::string& path) {
  std::filesystem::path folder = std::filesystem::absolute(path).lexically_normal();
  if (folder.filename().empty()) folder = folder.parent_path();
  return folder.filename().empty() ? "omni" : folder.filename().string();
}

}  // namespace omni
