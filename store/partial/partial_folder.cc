#include "store/partial/partial_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include <absl/strings/str_cat.h>

#include "store/file/files.h"
#include "store/format/model_files.h"

namespace omni {
namespace {

constexpr char kLockFile[] = "partial/lock";
constexpr char kIncomingFolder[] = "partial/incoming";

}  // namespace

absl::StatusOr<FileDescriptor> LockPartial(const std::string& dir) {
  const std::string path = absl::StrCat(dir, "/", kLockFile);
  FileDescriptor lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644));
  if (lock.get() < 0) return SystemError(path, "create the lock file", errno);
  while (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      return absl::FailedPreconditionError(
          absl::StrCat(dir, ": another process fills this directory; end it, or take another directory"));
    }
    if (errno != EINTR) return SystemError(path, "lock", errno);
  }
  return lock;
}

absl::StatusOr<std::string> IncomingPath(const std::string& dir, const std::string& name) {
  const std::string folder = absl::StrCat(dir, "/", kIncomingFolder);
  if (::mkdir(folder.c_str(), 0777) != 0 && errno != EEXIST)
    return SystemError(folder, "create the directory", errno);
  std::string flat = name;
  std::replace(flat.begin(), flat.end(), '/', '+');  // which no name of a model's file has
  return absl::StrCat(folder, "/", flat);
}

absl::Status WriteFully(int fd, const std::string& path, int64_t offset, std::string_view bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::pwrite(fd, bytes.data() + done, bytes.size() - done,
                               static_cast<off_t>(offset + static_cast<int64_t>(done)));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(path, "write", errno);
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

}  // namespace omni
