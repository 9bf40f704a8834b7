#include "store/state/state_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

namespace omni {
namespace fs = std::filesystem;
namespace {

// Held while alive; the file stays, empty.
class FileLock {
 public:
  explicit FileLock(const std::string& path) : fd_(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    while (fd_ >= 0 && flock(fd_, LOCK_EX) != 0) {
      if (errno == EINTR) continue;
      close(fd_);
      fd_ = -1;
    }
  }
  ~FileLock() {
    if (fd_ >= 0) close(fd_);
  }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  bool held() const { return fd_ >= 0; }

 private:
  int fd_;
};

absl::Status Merge(const std::string& path, RoutingCounts& counts) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::OkStatus();
  const nlohmann::json old = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
  const auto bad = absl::DataLossError(path + ": not routing counts of this model; move the file away");
  if (!old.is_object() || old.value("layers", nlohmann::json()) != counts.layers ||
      old.value("experts", nlohmann::json()) != counts.experts) {
    return bad;
  }
  const nlohmann::json rows = old.value("rows", nlohmann::json());
  if (!rows.is_array() || rows.size() != counts.rows.size()) return bad;
  for (size_t i = 0; i < counts.rows.size(); ++i) {
    if (!rows[i].is_number_integer()) return bad;
    counts.rows[i] += rows[i].get<int64_t>();
  }
  return absl::OkStatus();
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
  if (error) return absl::PermissionDeniedError(absl::StrCat(dir, ": ", error.message()));
  const std::string path = (fs::path(dir) / ("routing-" + model_hash + ".json")).string();
  const FileLock lock(path + ".lock");
  if (!lock.held()) return absl::PermissionDeniedError(absl::StrCat(path, ".lock: ", std::strerror(errno)));
  RoutingCounts sum = counts;
  if (absl::Status s = Merge(path, sum); !s.ok()) return s;
  const nlohmann::json json = {{"layers", sum.layers}, {"experts", sum.experts}, {"rows", sum.rows}};
  const std::string fresh = path + ".new";
  {
    std::ofstream out(fresh, std::ios::binary | std::ios::trunc);
    out << json.dump() << '\n';
    out.flush();
    if (!out) return absl::PermissionDeniedError(fresh + ": cannot be written");
  }
  fs::rename(fresh, path, error);
  if (error) return absl::PermissionDeniedError(absl::StrCat(path, ": ", error.message()));
  return absl::OkStatus();
}

}  // namespace omni
