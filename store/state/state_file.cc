#include "store/state/state_file.h"

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "engine/base/json.h"
#include "engine/base/log.h"
#include "store/file/files.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

absl::Status SetAside(const std::string& path) {
  const std::string aside = path + ".damaged";
  std::error_code error;
  fs::remove_all(aside, error);
  if (!error) fs::rename(path, aside, error);
  if (error) return SystemError(path, "move the damaged file aside", error.value());
  LogWarning("state_file_damaged", "{path} was damaged and begins anew; what it held is in {aside}",
             {{"path", path}, {"aside", aside}});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<nlohmann::json> ReadStateFile(
    const std::string& path, int64_t most_bytes,
    const std::function<bool(const nlohmann::json&)>& has_its_shape) {
  const absl::StatusOr<std::string> text = ReadText(path, most_bytes);
  if (absl::IsNotFound(text.status())) return nullptr;
  if (text.ok()) {
    absl::StatusOr<nlohmann::json> json = ParseJson<nlohmann::json>(*text);
    if (json.ok() && json->is_object() && has_its_shape(*json)) return json;
  } else if (!absl::IsInvalidArgument(text.status())) {  // that: no regular file, or one that is too long
    return text.status();
  }
  if (absl::Status s = SetAside(path); !s.ok()) return s;
  return nullptr;
}

}  // namespace omni
