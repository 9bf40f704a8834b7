#include "engine/base/write_all.h"

#include <unistd.h>

#include <cerrno>

#include "engine/base/system_error.h"

namespace omni {

absl::Status WriteAll(int fd, const std::string& path, const void* data, int64_t bytes) {
  for (int64_t done = 0; done < bytes;) {
    const ssize_t n = ::write(fd, static_cast<const char*>(data) + done, static_cast<size_t>(bytes - done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(path, "write", errno);
    done += n;
  }
  return absl::OkStatus();
}

}  // namespace omni
