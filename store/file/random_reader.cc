#include "store/file/random_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include <absl/strings/str_cat.h>

#include "store/file/files.h"

namespace omni {

absl::StatusOr<RandomReader> RandomReader::Open(const std::string& path) {
  // Non-blocking: a pipe is refused below, and must not be waited for before that.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return SystemError(path, "open", errno);
  RandomReader reader(path, fd);
  struct stat st {};
  if (::fstat(fd, &st) != 0) return SystemError(path, "examine", errno);
  if (!S_ISREG(st.st_mode)) return absl::InvalidArgumentError(path + ": not a regular file");
  return reader;
}

RandomReader::RandomReader(RandomReader&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

RandomReader::~RandomReader() {
  if (fd_ >= 0) ::close(fd_);
}

absl::Status RandomReader::ReadAt(int64_t offset, void* to, int64_t bytes) const {
  auto* at = static_cast<uint8_t*>(to);
  while (bytes > 0) {
    const ssize_t n = ::pread(fd_, at, static_cast<size_t>(bytes), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(path_, "read", errno);
    if (n == 0) {
      return absl::DataLossError(absl::StrCat(path_, ": ends ", bytes, " bytes too early, at ", offset));
    }
    at += n;
    offset += n;
    bytes -= n;
  }
  return absl::OkStatus();
}

}  // namespace omni
