#include "store/state/state_dir.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include <nlohmann/json.hpp>

#include "engine/base/open_file.h"
#include "engine/base/replace_file.h"
#include "engine/base/system_error.h"
#include "store/state/state_file.h"

namespace omni {
namespace fs = std::filesystem;
namespace {

// Held while alive; the file stays, empty.
absl::StatusOr<FileDescriptor> LockFile(const std::string& path) {
  FileDescriptor lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644));
  if (lock.get() < 0) return SystemError(path, "create the lock file", errno);
  while (::flock(lock.get(), LOCK_EX) != 0) {
    if (errno != EINTR) return SystemError(path, "lock", errno);
  }
  return lock;
}

bool AreCounts(const nlohmann::json& json, const RoutingCounts& like) {
  const nlohmann::json rows = json.value("rows", nlohmann::json());
  if (json.value("layers", nlohmann::json()) != like.layers ||
      json.value("experts", nlohmann::json()) != like.experts || !rows.is_array() ||
      rows.size() != like.rows.size()) {
    return false;
  }
  constexpr int64_t kMost = int64_t{1} << 62;  // no counting gets there, and a run's own can be added
  return std::all_of(rows.begin(), rows.end(), [](const nlohmann::json& row) {
    return row.is_number_integer() && row.get<int64_t>() >= 0 && row.get<int64_t>() <= kMost;
  });
}

}  // namespace

absl::StatusOr<std::string> StateDir() {
  const char* state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && *state != '\0') return (fs::path(state) / "omni").string();
  const char* home = std::getenv("HOME");
  if (home != nullptr && *home != '\0') return (fs::path(home) / ".local/state/omni").string();
  return absl::NotFoundError("neither XDG_STATE_HOME nor HOME is set");
}

absl::Status AddRoutingCounts(const std::string& dir, const std::string& model_hash,
                              const RoutingCounts& counts) {
  std::error_code error;
  fs::create_directories(dir, error);
  if (error) return SystemError(dir, "create the directory", error.value());
  const std::string path = (fs::path(dir) / ("routing-" + model_hash + ".json")).string();
  const absl::StatusOr<FileDescriptor> lock = LockFile(path + ".lock");
  if (!lock.ok()) return lock.status();
  constexpr int64_t kMostDigits = 20;
  const int64_t most_bytes = 200 + kMostDigits * static_cast<int64_t>(counts.rows.size());
  absl::StatusOr<nlohmann::json> old =
      ReadStateFile(path, most_bytes, [&](const nlohmann::json& json) { return AreCounts(json, counts); });
  if (!old.ok()) return old.status();
  std::vector<int64_t> rows = counts.rows;
  for (size_t i = 0; i < rows.size() && !old->is_null(); ++i) rows[i] += (*old)["rows"][i].get<int64_t>();
  const nlohmann::json json = {{"layers", counts.layers}, {"experts", counts.experts}, {"rows", rows}};
  return ReplaceFile(path, json.dump() + "\n");
}

}  // namespace omni
