#include "store/model/find_model.h"

#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <vector>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "engine/base/log.h"

namespace omni {
namespace fs = std::filesystem;

std::string ProgramDir() {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  return error ? std::string() : self.parent_path().string();
}

absl::StatusOr<std::string> FindModel(const std::string& given) {
  std::error_code error;
  if (!given.empty()) {
    if (fs::is_directory(given, error)) return given;
    return absl::NotFoundError(absl::StrCat(given,
                                            ": no such model directory; give one with -m, or make one with "
                                            "'omni pack CHECKPOINT DIR'"));
  }
  std::vector<std::string> places;
  if (const std::string program = ProgramDir(); !program.empty()) {
    places.push_back((fs::path(program) / "../../models/mini").lexically_normal().string());
    places.push_back((fs::path(program) / "../share/omni/models/mini").lexically_normal().string());
  }
  const char* data = std::getenv("XDG_DATA_HOME");
  const char* home = std::getenv("HOME");
  if (data != nullptr && *data != '\0') {
    places.push_back((fs::path(data) / "omni/models/mini").string());
  } else if (home != nullptr && *home != '\0') {
    places.push_back((fs::path(home) / ".local/share/omni/models/mini").string());
  }
  for (const std::string& place : places) {
    if (!fs::is_directory(place, error)) continue;
    LogInfo("model_found", "no model was named; {path} is used", {{"path", place}});
    return place;
  }
  return absl::NotFoundError(absl::StrCat("no model found in ", absl::StrJoin(places, ", "),
                                          "; give one with -m DIR or OMNI_MODEL"));
}

}  // namespace omni
