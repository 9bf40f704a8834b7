#include "store/file/atomic_dir.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <vector>

#include <absl/strings/str_cat.h>

namespace omni {
namespace {

namespace fs = std::filesystem;

constexpr char kTempInfix[] = ".tmp-";
constexpr char kResumePacks[] = "packs";
constexpr int64_t kMaxResumeKey = 4096;

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
  if (absl::Status s = self->Lock(); !s.ok()) return s;
  if (absl::Status s = CheckFree(self->dir_); !s.ok()) return s;
  self->temp_ = absl::StrCat(self->dir_, kTempInfix, ::getpid());
  self->resume_key_ = resume_key;
  if (absl::Status s = self->RemoveStaleTemporaries(); !s.ok()) return s;
  if (!self->adopted_) {
    if (absl::Status s = MakeDirectory(self->temp_); !s.ok()) return s;
  }
  self->made_temp_ = true;
  if (!self->adopted_ && !resume_key.empty()) {
    if (absl::Status s = WriteFileSynced(self->temp_ + "/" + kResumeFile, resume_key, nullptr); !s.ok())
      return s;
  }
  return self;
}

AtomicDir::~AtomicDir() {
  std::error_code ignored;
  if (made_temp_ && resume_key_.empty()) fs::remove_all(temp_, ignored);
  if (lock_fd_ >= 0) {
    ::unlink(lock_path_.c_str());
    ::close(lock_fd_);
  }
}

absl::Status AtomicDir::Lock() {
  while (true) {
    const int fd = ::open(lock_path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return SystemError(lock_path_, "create the lock file", errno);
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
      const int reason = errno;
      ::close(fd);
      if (reason == EINTR) continue;
      if (reason != EWOULDBLOCK) return SystemError(lock_path_, "lock", reason);
      return absl::FailedPreconditionError(absl::StrCat(dir_, ": another process is writing it (it holds ",
                                                        lock_path_, "); wait until it is done"));
    }
    // The last owner unlinks the file before it lets go: a lock on a file that has lost its name guards
    // nothing.
    struct stat held, named;
    if (::fstat(fd, &held) == 0 && ::stat(lock_path_.c_str(), &named) == 0 && held.st_ino == named.st_ino &&
        held.st_dev == named.st_dev) {
      lock_fd_ = fd;
      return absl::OkStatus();
    }
    ::close(fd);
  }
}

absl::StatusOr<bool> AtomicDir::Adopt(const std::string& stale) {
  if (resume_key_.empty() || adopted_) return false;
  const absl::StatusOr<std::string> key = ReadStart(stale + "/" + kResumeFile, kMaxResumeKey);
  if (!key.ok() || *key != resume_key_) return false;
  std::error_code error;
  if (stale != temp_) fs::rename(stale, temp_, error);
  std::vector<fs::path> rest;
  for (fs::directory_iterator it(temp_, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name != kResumeFile && name != kResumePacks) rest.push_back(it->path());
  }
  for (const fs::path& path : rest) {
    if (!error) fs::remove_all(path, error);
  }
  if (error) return SystemError(temp_, "go on with what an earlier run left", error.value());
  adopted_ = true;
  return true;
}

absl::Status AtomicDir::RemoveStaleTemporaries() {
  const std::string prefix = fs::path(dir_).filename().string() + kTempInfix;
  std::error_code error;
  fs::directory_iterator it(parent_, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.rfind(prefix, 0) != 0) continue;
    pid_t pid = 0;
    const char* end = name.data() + name.size();
    const auto [stop, parsed] = std::from_chars(name.data() + prefix.size(), end, pid);
    if (parsed != std::errc() || stop != end || pid <= 0) continue;
    // Our own number can only be a dead namesake's: this process holds the lock and has made nothing yet.
    const bool dead = pid == ::getpid() || (::kill(pid, 0) != 0 && errno == ESRCH);
    if (!dead) continue;
    const absl::StatusOr<bool> adopted = Adopt(it->path().string());
    if (!adopted.ok()) return adopted.status();
    if (*adopted) continue;
    std::error_code remove_error;
    fs::remove_all(it->path(), remove_error);
    if (remove_error)
      return SystemError(it->path().string(), "remove what a dead writer left", remove_error.value());
  }
  if (error) return SystemError(parent_, "list", error.value());
  return absl::OkStatus();
}

absl::Status AtomicDir::Commit(const StepHook& hook) {
  if (!resume_key_.empty()) {
    if (absl::Status s = RemoveFile(temp_ + "/" + kResumeFile); !s.ok()) return s;
  }
  if (absl::Status s = SyncDirectory(temp_, hook); !s.ok()) return s;
  if (hook) {
    if (absl::Status s = hook("rename " + dir_); !s.ok()) return s;
  }
  if (::rename(temp_.c_str(), dir_.c_str()) != 0)
    return SystemError(dir_, "rename the finished model to it", errno);
  made_temp_ = false;
  return SyncDirectory(parent_, hook);
}

}  // namespace omni
