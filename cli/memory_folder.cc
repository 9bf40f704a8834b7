#include "cli/memory_folder.h"

#include <absl/strings/str_cat.h>

#include "store/state/state_dir.h"

namespace omni::cli {

absl::StatusOr<std::string> MemoryFolder(const std::string& given) {
  if (!given.empty()) return given;
  absl::StatusOr<std::string> state = StateDir();
  if (!state.ok()) {
    return absl::Status(state.status().code(),
                        absl::StrCat(state.status().message(), "; or name a folder with --memory"));
  }
  return *state + "/memory";
}

}  // namespace omni::cli
