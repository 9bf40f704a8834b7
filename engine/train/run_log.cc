#include "engine/train/run_log.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <vector>

#include "engine/base/system_error.h"

namespace omni::train {
namespace {

using Json = nlohmann::json;

// How much of the log stays for a run that goes on after `step`.
size_t KeptBytes(const std::string& text, int64_t step) {
  if (step == 0) return 0;
  size_t kept = 0;
  while (kept < text.size()) {
    const size_t end = text.find('\n', kept);
    if (end == std::string::npos) return kept;
    const Json line = Json::parse(text.begin() + static_cast<std::ptrdiff_t>(kept),
                                  text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (line.is_discarded() && end + 1 == text.size()) return kept;
    const auto at = line.is_object() ? line.find("step") : line.end();
    if (line.is_object() && at != line.end() && at->is_number_integer() && at->get<int64_t>() > step)
      return kept;
    kept = end + 1;
  }
  return kept;
}

absl::StatusOr<std::string> ReadAll(int fd, const std::string& path) {
  std::string text;
  std::vector<char> buffer(1 << 16);
  while (true) {
    const ssize_t n = read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(path, "read", errno);
    if (n == 0) return text;
    text.append(buffer.data(), static_cast<size_t>(n));
  }
}

}  // namespace

absl::StatusOr<RunLog> RunLog::Open(const std::string& path) {
  // Non-blocking: a pipe of that name would wait for a reader.
  FileDescriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0666));
  if (file.get() < 0) return SystemError(path, "open", errno);
  struct stat info {};
  if (fstat(file.get(), &info) != 0) return SystemError(path, "examine", errno);
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(path + ": not a regular file");
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    return absl::FailedPreconditionError(path +
                                         ": another trainer writes to it; end that or give another --out");
  }
  return RunLog(path, std::move(file));
}

absl::Status RunLog::Cut(int64_t step) {
  const absl::StatusOr<std::string> text = ReadAll(file_.get(), path_);
  if (!text.ok()) return text.status();
  const size_t kept = KeptBytes(*text, step);
  if (kept == text->size() || ftruncate(file_.get(), static_cast<off_t>(kept)) == 0) return absl::OkStatus();
  return SystemError(path_, "cut", errno);
}

absl::Status RunLog::Append(Json object) {
  for (auto it = object.begin(); it != object.end();) {
    it = it->is_number_float() && !std::isfinite(it->get<double>()) ? object.erase(it) : std::next(it);
  }
  const std::string line = object.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  for (size_t done = 0; done < line.size();) {
    const ssize_t n = write(file_.get(), line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(path_, "write", errno);
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

}  // namespace omni::train
