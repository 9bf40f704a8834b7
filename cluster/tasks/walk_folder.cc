#include "cluster/tasks/walk_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <limits>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include "engine/base/system_error.h"

namespace omni {
namespace {

constexpr int kDeepest = 100;  // each level holds a descriptor
constexpr int kMostMoved = 1'000'000;

struct CloseFolder {
  void operator()(DIR* folder) const { ::closedir(folder); }
};
using Folder = std::unique_ptr<DIR, CloseFolder>;

// Null: errno says why.
Folder OpenFolder(int in, const char* name) {
  constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  // Whether it may be read says nothing of whether what is in it may be looked at.
  struct stat about {};
  if (::fstatat(in, name, &about, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(about.st_mode) &&
      (about.st_mode & S_IRWXU) != S_IRWXU) {
    // A link that has come into its place meanwhile is what O_PATH opens, and has no mode.
    const int that = ::openat(in, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (that >= 0) {
      (void)::chmod(absl::StrCat("/proc/self/fd/", that).c_str(), (about.st_mode & 07777) | S_IRWXU);
      ::close(that);
    }
  }
  const int fd = ::openat(in, name, kFlags);
  if (fd < 0) return nullptr;
  Folder folder(::fdopendir(fd));
  if (folder == nullptr) ::close(fd);
  return folder;
}

bool IsItself(const char* name) { return std::string_view(name) == "." || std::string_view(name) == ".."; }

class Walk {
 public:
  Walk(const std::string& root, const std::function<absl::Status(const FolderEntry&)>& visit)
      : root_(root), visit_(visit) {}

  absl::Status Of(int in, const char* name, int depth) {
    const Folder folder = OpenFolder(in, name);
    if (folder == nullptr) {
      if (depth > 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)) return absl::OkStatus();
      return SystemError(Where(), "read the directory", errno);
    }
    const int fd = ::dirfd(folder.get());
    const size_t above = path_.size();
    while (true) {
      errno = 0;
      const dirent* entry = ::readdir(folder.get());
      if (entry == nullptr && errno != 0) return SystemError(Where(), "read the directory", errno);
      if (entry == nullptr) return absl::OkStatus();
      if (IsItself(entry->d_name)) continue;
      struct stat about {};
      if (::fstatat(fd, entry->d_name, &about, AT_SYMLINK_NOFOLLOW) != 0) continue;
      absl::StrAppend(&path_, path_.empty() ? "" : "/", entry->d_name);
      absl::Status s = visit_({fd, entry->d_name, path_, about});
      if (s.ok() && S_ISDIR(about.st_mode)) {
        s = depth < kDeepest ? Of(fd, entry->d_name, depth + 1)
                             : absl::ResourceExhaustedError(absl::StrCat(
                                   "folders lie in folders for more than ", kDeepest, " levels"));
      }
      path_.resize(above);
      if (!s.ok()) return s;
    }
  }

 private:
  std::string Where() const { return path_.empty() ? root_ : root_ + "/" + absl::CHexEscape(path_); }

  const std::string& root_;
  const std::function<absl::Status(const FolderEntry&)>& visit_;
  std::string path_;
};

// Of a folder that is open. What lies too deep is moved up into `top`, where it is come to later.
void Empty(int top, DIR* folder, int depth, int& moved) {
  const int fd = ::dirfd(folder);
  while (const dirent* entry = ::readdir(folder)) {
    if (IsItself(entry->d_name)) continue;
    if (::unlinkat(fd, entry->d_name, 0) == 0) continue;
    if (depth == kDeepest) {
      if (++moved <= kMostMoved)
        (void)::renameat(fd, entry->d_name, top, absl::StrCat(".omni-removed-", moved).c_str());
      continue;
    }
    if (const Folder below = OpenFolder(fd, entry->d_name)) Empty(top, below.get(), depth + 1, moved);
    (void)::unlinkat(fd, entry->d_name, AT_REMOVEDIR);
  }
}

}  // namespace

absl::Status WalkFolder(const std::string& folder,
                        const std::function<absl::Status(const FolderEntry&)>& visit) {
  return Walk(folder, visit).Of(AT_FDCWD, folder.c_str(), 0);
}

int64_t FolderBytes(const std::string& folder) {
  constexpr int64_t kEntry = 512;  // empty ones take something too
  int64_t bytes = 0;
  const absl::Status s = WalkFolder(folder, [&](const FolderEntry& entry) {
    bytes += kEntry + 512 * static_cast<int64_t>(entry.about.st_blocks);
    return absl::OkStatus();
  });
  if (absl::IsNotFound(s)) return 0;
  return s.ok() ? bytes : std::numeric_limits<int64_t>::max();
}

void RemoveFolder(const std::string& folder) {
  int moved = 0, before = -1;
  while (std::exchange(before, moved) != moved) {
    const Folder top = OpenFolder(AT_FDCWD, folder.c_str());
    if (top == nullptr) break;
    Empty(::dirfd(top.get()), top.get(), 0, moved);
  }
  if (::rmdir(folder.c_str()) != 0) (void)::unlink(folder.c_str());  // a link was put into its place
}

}  // namespace omni
