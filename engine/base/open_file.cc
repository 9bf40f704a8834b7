#include "engine/base/open_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "engine/base/system_error.h"

namespace omni {
namespace {

absl::Status NotRegular(const std::string& path) {
  return absl::InvalidArgumentError(path + ": not a regular file");
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

absl::StatusOr<FileDescriptor> OpenRegular(const std::string& path, int flags) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return SystemError(path, "open", errno);
  if (!S_ISREG(st.st_mode)) return NotRegular(path);
  // Non-blocking for the case that the name has come to mean a pipe since.
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | flags));
  if (file.get() < 0) return SystemError(path, "open", errno);
  if (::fstat(file.get(), &st) != 0) return SystemError(path, "examine", errno);
  if (!S_ISREG(st.st_mode)) return NotRegular(path);
  const int set = ::fcntl(file.get(), F_GETFL);
  if (set < 0 || ::fcntl(file.get(), F_SETFL, set & ~O_NONBLOCK) != 0)
    return SystemError(path, "open", errno);
  return file;
}

}  // namespace omni
