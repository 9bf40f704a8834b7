#include "cli/result_file.h"

#include <sys/stat.h>

#include "engine/base/replace_file.h"

namespace omni::cli {

absl::Status CheckResultFile(const std::string& path) {
  struct stat st {};
  const bool there = ::stat(path.c_str(), &st) == 0;
  // Pipes and devices are written to, and so are this process's own open files.
  if (there && (!(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) || path.starts_with("/dev/") ||
                path.starts_with("/proc/"))) {
    return absl::OkStatus();
  }
  return FileReplacement::Begin(path).status();
}

}  // namespace omni::cli
