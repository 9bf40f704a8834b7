#include "engine/base/replace_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/random.h"
#include "engine/base/system_error.h"
#include "engine/base/write_all.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

constexpr char kInfix[] = ".tmp-";
constexpr size_t kRandomDigits = 16;
constexpr size_t kLongestBase = 255 - sizeof(kInfix) - kRandomDigits;  // file systems take names of 255 bytes
constexpr int kMostLinks = 40;                                         // as many as the kernel follows
constexpr int kMostTries = 100;

std::string FolderOf(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

struct Target {
  std::string path;        // what the links lead to; need not exist
  bool open_file = false;  // one of a process's open files, by a link of /proc
};

absl::StatusOr<Target> FollowLinks(const std::string& path) {
  Target target{path};
  for (int links = 0;; ++links) {
    std::error_code error;
    const fs::file_status status = fs::symlink_status(target.path, error);
    if (status.type() != fs::file_type::symlink) return target;  // errors are told by whoever opens it
    if (links == kMostLinks) return SystemError(path, "follow", ELOOP);
    struct statfs folder {};
    const std::string parent = FolderOf(target.path);
    target.open_file |= ::statfs(parent.c_str(), &folder) == 0 && folder.f_type == PROC_SUPER_MAGIC;
    const fs::path to = fs::read_symlink(target.path, error);
    if (error) return SystemError(path, "follow", error.value());
    target.path = (fs::path(parent) / to).string();
  }
}

bool HasName(int fd, const std::string& path) {
  struct stat open {
  }, named{};
  return ::fstat(fd, &open) == 0 && ::lstat(path.c_str(), &named) == 0 && open.st_ino == named.st_ino &&
         open.st_dev == named.st_dev;
}

std::string Prefix(const std::string& path) {
  return fs::path(path).filename().string().substr(0, kLongestBase) + kInfix;
}

bool IsTemporary(const std::string& name, const std::string& prefix) {
  return name.size() == prefix.size() + kRandomDigits && name.starts_with(prefix) &&
         std::all_of(name.begin() + static_cast<std::ptrdiff_t>(prefix.size()), name.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// What cannot be looked at or removed stays: it is in nobody's way.
void RemoveLeftovers(const std::string& path) {
  const std::string folder = FolderOf(path), prefix = Prefix(path);
  std::error_code error;
  fs::directory_iterator it(folder, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    if (!IsTemporary(it->path().filename().string(), prefix)) continue;
    const std::string name = it->path().string();
    const FileDescriptor file(::open(name.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    struct stat st {};
    if (file.get() < 0 || ::fstat(file.get(), &st) != 0 || !S_ISREG(st.st_mode)) continue;
    if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0 && HasName(file.get(), name)) ::unlink(name.c_str());
  }
}

absl::StatusOr<std::pair<std::string, FileDescriptor>> MakeTemporary(const std::string& path, mode_t mode) {
  const std::string start = FolderOf(path) + "/" + Prefix(path);
  for (int tries = 0; tries < kMostTries; ++tries) {
    std::string name = start + RandomHex(kRandomDigits);
    FileDescriptor file(::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
    if (file.get() < 0 && errno == EEXIST) continue;
    if (file.get() < 0) return SystemError(path, "write", errno);
    // Another writer may have taken it for a leftover before it was locked. Without locks (some network file
    // systems) nobody can: leftovers stay there.
    if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) continue;
    if (HasName(file.get(), name)) return std::pair(std::move(name), std::move(file));
  }
  return absl::UnavailableError(path + ": no name could be found for a temporary file beside it");
}

absl::Status SyncFolder(const std::string& folder) {
  const FileDescriptor file(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (file.get() < 0) return SystemError(folder, "open", errno);
  if (::fsync(file.get()) != 0) return SystemError(folder, "fsync", errno);
  return absl::OkStatus();
}

}  // namespace

FileReplacement::FileReplacement(std::string path, std::string temporary, FileDescriptor file)
    : path_(std::move(path)), temporary_(std::move(temporary)), file_(std::move(file)) {}

FileReplacement::~FileReplacement() {
  if (file_.get() >= 0 && !temporary_.empty()) ::unlink(temporary_.c_str());
}

absl::StatusOr<FileReplacement> FileReplacement::Begin(const std::string& path, mode_t mode) {
  const absl::StatusOr<Target> target = FollowLinks(path);
  if (!target.ok()) return target.status();
  struct stat st {};
  const bool there = ::stat(target->path.c_str(), &st) == 0;
  if (there && !S_ISREG(st.st_mode))
    return absl::InvalidArgumentError(path + ": not a regular file; give another name");
  RemoveLeftovers(target->path);
  auto made = MakeTemporary(target->path, mode);
  if (!made.ok()) return made.status();
  FileReplacement replacement(target->path, std::move(made->first), std::move(made->second));
  if (there && ::fchmod(replacement.file_.get(), st.st_mode & 07777) != 0)
    return SystemError(replacement.temporary_, "set the mode", errno);
  return replacement;
}

absl::Status FileReplacement::Append(const void* data, int64_t bytes) {
  return WriteAll(file_.get(), path_, data, bytes);
}

absl::Status FileReplacement::Commit() {
  if (::fsync(file_.get()) != 0) return SystemError(path_, "fsync", errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return SystemError(path_, "replace", errno);
  temporary_.clear();
  return SyncFolder(FolderOf(path_));
}

absl::Status ReplaceFile(const std::string& path, std::string_view bytes) {
  absl::StatusOr<FileReplacement> file = FileReplacement::Begin(path);
  if (!file.ok()) return file.status();
  if (absl::Status s = file->Append(bytes); !s.ok()) return s;
  return file->Commit();
}

absl::Status WriteOutput(const std::string& path, std::string_view bytes) {
  const absl::StatusOr<Target> target = FollowLinks(path);
  if (!target.ok()) return target.status();
  struct stat st {};
  const bool there = ::stat(path.c_str(), &st) == 0;
  if (there && S_ISDIR(st.st_mode)) return SystemError(path, "write", EISDIR);
  if (!there || (S_ISREG(st.st_mode) && !target->open_file)) return ReplaceFile(path, bytes);
  // Else a pipe that nobody reads would be waited for.
  FileDescriptor file(::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0 && errno == ENXIO && S_ISFIFO(st.st_mode))
    return absl::FailedPreconditionError(absl::StrCat(path, ": is a pipe that nobody reads"));
  if (file.get() < 0) return SystemError(path, "open", errno);
  if (::fcntl(file.get(), F_SETFL, O_APPEND) != 0) return SystemError(path, "write", errno);
  if (absl::Status s = WriteAll(file.get(), path, bytes.data(), static_cast<int64_t>(bytes.size())); !s.ok())
    return s;
  if (::close(file.release()) != 0) return SystemError(path, "close", errno);
  return absl::OkStatus();
}

}  // namespace omni
