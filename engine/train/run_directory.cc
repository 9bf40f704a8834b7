#include "engine/train/run_directory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include <absl/strings/str_cat.h>

#include "engine/base/open_file.h"
#include "engine/base/system_error.h"

namespace omni::train {
namespace {

namespace fs = std::filesystem;

fs::path Final(const std::string& run) { return fs::path(run) / "checkpoint"; }
fs::path Temporary(const std::string& run) { return fs::path(run) / "checkpoint.tmp"; }
fs::path Old(const std::string& run) { return fs::path(run) / "checkpoint.old"; }

bool Exists(const fs::path& path) {
  std::error_code ignored;
  return fs::symlink_status(path, ignored).type() != fs::file_type::not_found;
}

absl::Status Remove(const fs::path& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
  return error ? SystemError(folder.string(), "remove", error.value()) : absl::OkStatus();
}

absl::Status Rename(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  return SystemError(to.string(), "replace", errno);
}

absl::Status SyncFolder(const fs::path& path) {
  const FileDescriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0) return SystemError(path.string(), "open", errno);
  return ::fsync(folder.get()) == 0 ? absl::OkStatus() : SystemError(path.string(), "sync", errno);
}

// Whether another file system, or another part of one, is mounted there.
bool IsMountPoint(const fs::path& path) {
  struct statx info {};
  return ::statx(AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &info) == 0 &&
         (info.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

}  // namespace

absl::Status PrepareRunDirectory(const std::string& run, bool resume) {
  std::error_code error;
  fs::create_directories(run, error);
  if (error) return SystemError(run, "make the run's directory", error.value());
  if (IsMountPoint(Final(run))) {
    return absl::FailedPreconditionError(
        absl::StrCat(Final(run).string(), ": something is mounted here, and a checkpoint is replaced by ",
                     "renaming it; mount ", run, " itself instead"));
  }
  const bool there = Exists(Final(run)) || Exists(Old(run));
  if (!resume && there) {
    return absl::AlreadyExistsError(
        absl::StrCat(run, ": holds a checkpoint already; add --resume or give another --out"));
  }
  if (resume && !there) {
    return absl::NotFoundError(
        absl::StrCat(run, ": holds no checkpoint to go on from; start the run without --resume"));
  }
  if (const auto writable = BeginCheckpoint(run); !writable.ok()) return writable.status();
  if (absl::Status s = Remove(Temporary(run)); !s.ok()) return s;
  // Killed between the two renames of a replacement: the one before is still whole.
  return Exists(Final(run)) || !there ? absl::OkStatus() : Rename(Old(run), Final(run));
}

absl::StatusOr<std::string> BeginCheckpoint(const std::string& run) {
  const fs::path path = Temporary(run);
  if (absl::Status s = Remove(path); !s.ok()) return s;
  if (::mkdir(path.c_str(), 0777) != 0) return SystemError(run, "write a checkpoint", errno);
  return path.string();
}

absl::Status CommitCheckpoint(const std::string& run) {
  if (absl::Status s = SyncFolder(Temporary(run)); !s.ok()) return s;
  if (absl::Status s = Remove(Old(run)); !s.ok()) return s;
  if (Exists(Final(run))) {
    if (absl::Status s = Rename(Final(run), Old(run)); !s.ok()) return s;
  }
  if (absl::Status s = Rename(Temporary(run), Final(run)); !s.ok()) return s;
  // Before the old one's files go: its name must not come back without them.
  if (absl::Status s = SyncFolder(run); !s.ok()) return s;
  return Remove(Old(run));
}

void DropCheckpoint(const std::string& run) { Remove(Temporary(run)).IgnoreError(); }

}  // namespace omni::train
