#include "store/file/atomic_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "store/file/files.h"
#include "store/file/hash.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

constexpr char kTempInfix[] = ".tmp-";
constexpr char kResumePacks[] = "packs";

absl::Status CheckFree(const std::string& dir) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(dir, error);
  if (status.type() == fs::file_type::not_found) return absl::OkStatus();
  if (error) return SystemError(dir, "look at it", error.value());
  if (status.type() != fs::file_type::directory) {
    return absl::AlreadyExistsError(
        absl::StrCat(dir, ": exists and is not a directory; choose another name"));
  }
  const bool empty = fs::is_empty(dir, error);
  if (error) return SystemError(dir, "list", error.value());
  if (!empty) {
    return absl::AlreadyExistsError(
        absl::StrCat(dir, ": exists and is not empty; choose another name or remove it first"));
  }
  return absl::OkStatus();
}

// Holds a directory against those that look for leftovers; false: another one does. Where directories cannot
// be locked (some network file systems) DIR.lock alone must do.
bool Hold(const FileDescriptor& folder) {
  return ::flock(folder.get(), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
}

FileDescriptor OpenFolder(const std::string& path) {
  return FileDescriptor(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

bool IsMountPoint(const std::string& path) {
  struct statx st {};
  return ::statx(AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW, 0, &st) == 0 &&
         (st.stx_attributes_mask & st.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<AtomicDir>> AtomicDir::Begin(const std::string& dir,
                                                            const std::string& resume_key) {
  std::error_code error;
  fs::path full = fs::absolute(dir, error).lexically_normal();
  if (error) return SystemError(dir, "resolve the path", error.value());
  if (!full.has_filename()) full = full.parent_path();
  if (dir.empty() || full.filename().empty()) {
    return absl::InvalidArgumentError(absl::StrCat("\"", dir, "\" names no directory that can be made"));
  }
  std::unique_ptr<AtomicDir> self(new AtomicDir());
  self->dir_ = full.string();
  self->parent_ = full.parent_path().string();
  self->lock_path_ = self->dir_ + ".lock";
  if (!resume_key.empty()) {
    self->resume_temp_ =
        absl::StrCat(self->dir_, kTempInfix, Checksum64(resume_key.data(), resume_key.size()));
  }
  if (absl::Status s = self->Lock(); !s.ok()) return s;
  if (absl::Status s = CheckFree(self->dir_); !s.ok()) return s;
  if (absl::Status s = self->TakeOrRemoveLeftovers(); !s.ok()) return s;
  if (absl::Status s = self->MakeTemporary(); !s.ok()) return s;
  if (!resume_key.empty()) {
    self->keep_ = true;
    if (absl::Status s = SyncDirectory(self->parent_); !s.ok()) return s;
  }
  return self;
}

AtomicDir::~AtomicDir() {
  std::error_code ignored;
  if (!temp_.empty() && !keep_) fs::remove_all(temp_, ignored);
  if (lock_.get() >= 0) ::unlink(lock_path_.c_str());
}

absl::Status AtomicDir::Lock() {
  while (true) {
    FileDescriptor lock(::open(lock_path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666));
    if (lock.get() < 0) return SystemError(lock_path_, "create the lock file", errno);
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno != EWOULDBLOCK) return SystemError(lock_path_, "lock", errno);
      return absl::FailedPreconditionError(absl::StrCat(dir_, ": another process is writing it (it holds ",
                                                        lock_path_, "); wait until it is done"));
    }
    // The last owner unlinks the file before it lets go: a lock on a file that has lost its name guards
    // nothing.
    struct stat held, named;
    if (::fstat(lock.get(), &held) == 0 && ::stat(lock_path_.c_str(), &named) == 0 &&
        held.st_ino == named.st_ino && held.st_dev == named.st_dev) {
      lock_ = std::move(lock);
      return absl::OkStatus();
    }
  }
}

// A fresh one, unless a leftover was taken; with it is tried what must be possible at the end.
absl::Status AtomicDir::MakeTemporary() {
  const bool resumable = !resume_temp_.empty() && !adopted_;
  std::string fresh = resume_temp_;
  absl::Status made = resumable ? MakeDirectory(fresh) : absl::AlreadyExistsError("");
  for (int number = 1; !resumable && absl::IsAlreadyExists(made); ++number) {
    fresh = absl::StrCat(dir_, kTempInfix, number);
    made = MakeDirectory(fresh);
  }
  if (!made.ok()) return made;
  const absl::Status replaceable = CheckReplaceable(fresh);
  if (adopted_ || !replaceable.ok()) {
    std::error_code ignored;
    fs::remove(fresh, ignored);
    return replaceable;
  }
  temp_ = fresh;
  temp_lock_ = OpenFolder(temp_);
  if (temp_lock_.get() < 0) return SystemError(temp_, "open", errno);
  (void)Hold(temp_lock_);
  return absl::OkStatus();
}

// Whether the rename at the end will be allowed, as far as that can be known now: hours of writing may lie
// between. DIR and `fresh`, both empty, change places and back.
absl::Status AtomicDir::CheckReplaceable(const std::string& fresh) const {
  if (!IsDirectory(dir_)) return absl::OkStatus();
  if (IsMountPoint(dir_)) {
    return absl::FailedPreconditionError(absl::StrCat(
        dir_, ": is a mount point, which nothing can be renamed to; give a directory inside it, such as ",
        dir_, "/model"));
  }
  const auto exchange = [&] {
    return ::renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, dir_.c_str(), RENAME_EXCHANGE) == 0;
  };
  if (exchange()) {
    return exchange() ? absl::OkStatus() : SystemError(dir_, "replace the empty directory", errno);
  }
  // Other errors are of file systems that cannot exchange.
  if (errno == EBUSY || errno == EPERM || errno == EACCES || errno == EROFS)
    return SystemError(dir_, "replace the empty directory", errno);
  return absl::OkStatus();
}

absl::Status AtomicDir::Adopt() {
  std::error_code error;
  std::vector<fs::path> rest;
  for (fs::directory_iterator it(resume_temp_, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    if (it->path().filename() != kResumePacks) rest.push_back(it->path());
  }
  for (const fs::path& path : rest) {
    if (!error) fs::remove_all(path, error);
  }
  if (error) return SystemError(resume_temp_, "go on with what an earlier run left", error.value());
  temp_ = resume_temp_;
  adopted_ = keep_ = true;
  return absl::OkStatus();
}

absl::Status AtomicDir::TakeOrRemoveLeftovers() {
  const std::string prefix = fs::path(dir_).filename().string() + kTempInfix;
  std::vector<std::string> leftovers;
  std::error_code error;
  for (fs::directory_iterator it(parent_, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.size() > prefix.size() && name.starts_with(prefix) &&
        std::all_of(name.begin() + static_cast<std::ptrdiff_t>(prefix.size()), name.end(),
                    [](char c) { return c >= '0' && c <= '9'; })) {
      leftovers.push_back(it->path().string());
    }
  }
  if (error) return SystemError(parent_, "list", error.value());
  std::sort(leftovers.begin(), leftovers.end());
  for (const std::string& leftover : leftovers) {
    FileDescriptor folder = OpenFolder(leftover);
    if (folder.get() < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)) continue;
    if (folder.get() < 0) return SystemError(leftover, "look at what another writer left", errno);
    if (!Hold(folder)) continue;  // its writer lives, this one too
    if (leftover == resume_temp_) {
      if (absl::Status s = Adopt(); !s.ok()) return s;
      temp_lock_ = std::move(folder);
      continue;
    }
    fs::remove_all(leftover, error);
    if (error) return SystemError(leftover, "remove what a dead writer left", error.value());
  }
  return absl::OkStatus();
}

absl::Status AtomicDir::Commit() {
  if (absl::Status s = SyncDirectory(temp_); !s.ok()) return s;
  if (::rename(temp_.c_str(), dir_.c_str()) != 0)
    return SystemError(dir_, "rename the finished model to it", errno);
  temp_.clear();
  return SyncDirectory(parent_);
}

}  // namespace omni
