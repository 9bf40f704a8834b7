#include "cluster/model_name.h"

#include <filesystem>
#include <system_error>

namespace omni {

std::string ModelName(const std::string& path) {
  std::error_code error;
  std::filesystem::path folder = std::filesystem::absolute(path, error).lexically_normal();
  if (folder.filename().empty()) folder = folder.parent_path();
  return folder.filename().empty() ? "omni" : folder.filename().string();
}

}  // namespace omni
