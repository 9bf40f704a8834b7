#include "tests/testing/file_calls.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <utility>

namespace omni::testing {
namespace {

namespace fs = std::filesystem;
using Kind = FileCall::Kind;

std::atomic<FileWatcher*> watcher = nullptr;
std::recursive_mutex mutex;  // held during every changing call, so that what is seen is the order it had
thread_local bool watching = false;  // the watcher's own calls are not watched

std::string PathOf(int fd) {
  std::error_code error;
  return fs::read_symlink("/proc/self/fd/" + std::to_string(fd), error).string();
}

std::string Absolute(int folder, const char* path) {
  if (path[0] == '/') return fs::path(path).lexically_normal().string();
  std::error_code error;
  const fs::path from = folder == AT_FDCWD ? fs::current_path(error) : fs::path(PathOf(folder));
  return (from / path).lexically_normal().string();
}

bool IsProduct(const void* caller) {
  Dl_info here{}, there{};
  return ::dladdr(reinterpret_cast<const void*>(&PathOf), &here) != 0 && ::dladdr(caller, &there) != 0 &&
         here.dli_fbase == there.dli_fbase;
}

// Calls the system, between the watcher's two looks. `make` describes the call; it is not asked without a
// watcher.
template <typename Make, typename Call>
auto Watched(const void* caller, const Make& make, const Call& call) {
  using Result = decltype(call());
  if (watcher == nullptr || watching) return call();
  const int before = errno;
  std::unique_lock lock(mutex);
  FileWatcher* const now = watcher;
  if (now == nullptr) return call();
  watching = true;
  FileCall seen = make();
  seen.by_product = IsProduct(caller);
  const int refused = now->Before(seen);
  watching = false;
  if (refused > 0) {
    errno = refused;
    return static_cast<Result>(-1);
  }
  if (!Changes(seen)) lock.unlock();  // may wait for another thread
  errno = before;
  const Result result = refused == FileWatcher::kPretend ? Result{0} : call();
  const int after = errno;
  if (!lock.owns_lock()) lock.lock();
  watching = true;
  if (watcher == now) now->After(seen, static_cast<int64_t>(result));
  watching = false;
  errno = after;
  return result;
}

int Open(const void* caller, int folder, const char* path, int flags, mode_t mode) {
  return Watched(
      caller, [&] { return FileCall{.kind = Kind::kOpen, .path = Absolute(folder, path), .flags = flags}; },
      [&] { return static_cast<int>(::syscall(SYS_openat, folder, path, flags | O_LARGEFILE, mode)); });
}

ssize_t Write(const void* caller, int fd, const void* data, size_t bytes, off_t offset) {
  return Watched(
      caller,
      [&] {
        return FileCall{.kind = Kind::kWrite,
                        .path = PathOf(fd),
                        .fd = fd,
                        .offset = offset,
                        .bytes = static_cast<int64_t>(bytes),
                        .data = data};
      },
      [&] {
        return static_cast<ssize_t>(offset < 0 ? ::syscall(SYS_write, fd, data, bytes)
                                               : ::syscall(SYS_pwrite64, fd, data, bytes, offset));
      });
}

ssize_t Read(const void* caller, int fd, void* data, size_t bytes, off_t offset) {
  return Watched(
      caller,
      [&] {
        return FileCall{
            .kind = Kind::kRead, .path = PathOf(fd), .fd = fd, .bytes = static_cast<int64_t>(bytes)};
      },
      [&] {
        return static_cast<ssize_t>(offset < 0 ? ::syscall(SYS_read, fd, data, bytes)
                                               : ::syscall(SYS_pread64, fd, data, bytes, offset));
      });
}

int Sync(const void* caller, int fd, long number) {
  return Watched(
      caller, [&] { return FileCall{.kind = Kind::kSync, .path = PathOf(fd), .fd = fd}; },
      [&] { return static_cast<int>(::syscall(number, fd)); });
}

int Rename(const void* caller, int from_folder, const char* from, int to_folder, const char* to,
           unsigned flags) {
  return Watched(
      caller,
      [&] {
        return FileCall{.kind = Kind::kRename,
                        .path = Absolute(from_folder, from),
                        .to = Absolute(to_folder, to),
                        .exchange = (flags & RENAME_EXCHANGE) != 0};
      },
      [&] { return static_cast<int>(::syscall(SYS_renameat2, from_folder, from, to_folder, to, flags)); });
}

int Unlink(const void* caller, int folder, const char* path, int flags) {
  const Kind kind = (flags & AT_REMOVEDIR) != 0 ? Kind::kRemoveFolder : Kind::kUnlink;
  return Watched(
      caller, [&] { return FileCall{.kind = kind, .path = Absolute(folder, path)}; },
      [&] { return static_cast<int>(::syscall(SYS_unlinkat, folder, path, flags)); });
}

int Truncate(const void* caller, int fd, off_t bytes) {
  return Watched(
      caller, [&] { return FileCall{.kind = Kind::kTruncate, .path = PathOf(fd), .fd = fd, .bytes = bytes}; },
      [&] { return static_cast<int>(::syscall(SYS_ftruncate, fd, bytes)); });
}

int Allocate(const void* caller, int fd, int mode, off_t offset, off_t bytes) {
  return Watched(
      caller,
      [&] {
        return FileCall{.kind = Kind::kAllocate,
                        .path = PathOf(fd),
                        .fd = fd,
                        .flags = mode,
                        .offset = offset,
                        .bytes = bytes};
      },
      [&] { return static_cast<int>(::syscall(SYS_fallocate, fd, mode, offset, bytes)); });
}

int MakeFolder(const void* caller, int folder, const char* path, mode_t mode) {
  return Watched(
      caller, [&] { return FileCall{.kind = Kind::kMakeFolder, .path = Absolute(folder, path)}; },
      [&] { return static_cast<int>(::syscall(SYS_mkdirat, folder, path, mode)); });
}

int Link(const void* caller, const char* from, const char* to) {
  return Watched(
      caller,
      [&] {
        return FileCall{.kind = Kind::kLink, .path = Absolute(AT_FDCWD, from), .to = Absolute(AT_FDCWD, to)};
      },
      [&] { return static_cast<int>(::syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0)); });
}

mode_t ModeOf(int flags, va_list arguments) {
  return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
}

}  // namespace

bool Changes(const FileCall& call) {
  return call.kind != Kind::kRead && (call.kind != Kind::kOpen || (call.flags & (O_CREAT | O_TRUNC)) != 0);
}

bool IsStep(const FileCall& call) {
  return Changes(call) && call.kind != Kind::kWrite && call.kind != Kind::kTruncate &&
         call.kind != Kind::kAllocate;
}

WatchFiles::WatchFiles(FileWatcher& set) {
  const std::lock_guard lock(mutex);
  watcher = &set;
}

WatchFiles::~WatchFiles() {
  const std::lock_guard lock(mutex);
  watcher = nullptr;
}

}  // namespace omni::testing

#define CALLER __builtin_return_address(0)
using namespace omni::testing;  // NOLINT: the functions below are the C library's

extern "C" {

#define OPEN(name)                                    \
  int name(const char* path, int flags, ...) {        \
    va_list arguments;                                \
    va_start(arguments, flags);                       \
    const mode_t mode = ModeOf(flags, arguments);     \
    va_end(arguments);                                \
    return Open(CALLER, AT_FDCWD, path, flags, mode); \
  }
#define OPENAT(name)                                       \
  int name(int folder, const char* path, int flags, ...) { \
    va_list arguments;                                     \
    va_start(arguments, flags);                            \
    const mode_t mode = ModeOf(flags, arguments);          \
    va_end(arguments);                                     \
    return Open(CALLER, folder, path, flags, mode);        \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

ssize_t read(int fd, void* data, size_t bytes) { return Read(CALLER, fd, data, bytes, -1); }
ssize_t pread(int fd, void* data, size_t bytes, off_t at) { return Read(CALLER, fd, data, bytes, at); }
ssize_t pread64(int fd, void* data, size_t bytes, off_t at) { return Read(CALLER, fd, data, bytes, at); }
ssize_t write(int fd, const void* data, size_t bytes) { return Write(CALLER, fd, data, bytes, -1); }
ssize_t pwrite(int fd, const void* data, size_t bytes, off_t at) {
  return Write(CALLER, fd, data, bytes, at);
}
ssize_t pwrite64(int fd, const void* data, size_t bytes, off_t at) {
  return Write(CALLER, fd, data, bytes, at);
}
ssize_t writev(int fd, const iovec* pieces, int count) {
  ssize_t all = 0;
  for (int i = 0; i < count; ++i) {
    const ssize_t n = Write(CALLER, fd, pieces[i].iov_base, pieces[i].iov_len, -1);
    if (n < 0) return all > 0 ? all : -1;
    all += n;
    if (static_cast<size_t>(n) < pieces[i].iov_len) break;
  }
  return all;
}

int fsync(int fd) { return Sync(CALLER, fd, SYS_fsync); }
int fdatasync(int fd) { return Sync(CALLER, fd, SYS_fdatasync); }

int ftruncate(int fd, off_t bytes) noexcept { return Truncate(CALLER, fd, bytes); }
int ftruncate64(int fd, off_t bytes) noexcept { return Truncate(CALLER, fd, bytes); }
int fallocate(int fd, int mode, off_t at, off_t bytes) { return Allocate(CALLER, fd, mode, at, bytes); }
int fallocate64(int fd, int mode, off_t at, off_t bytes) { return Allocate(CALLER, fd, mode, at, bytes); }
int posix_fallocate(int fd, off_t at, off_t bytes) {
  return Allocate(CALLER, fd, 0, at, bytes) == 0 ? 0 : errno;
}
int posix_fallocate64(int fd, off_t at, off_t bytes) {
  return Allocate(CALLER, fd, 0, at, bytes) == 0 ? 0 : errno;
}

int rename(const char* from, const char* to) noexcept {
  return Rename(CALLER, AT_FDCWD, from, AT_FDCWD, to, 0);
}
int renameat(int from_folder, const char* from, int to_folder, const char* to) noexcept {
  return Rename(CALLER, from_folder, from, to_folder, to, 0);
}
int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
  return Rename(CALLER, from_folder, from, to_folder, to, flags);
}
int link(const char* from, const char* to) noexcept { return Link(CALLER, from, to); }
int unlink(const char* path) noexcept { return Unlink(CALLER, AT_FDCWD, path, 0); }
int unlinkat(int folder, const char* path, int flags) noexcept { return Unlink(CALLER, folder, path, flags); }
int rmdir(const char* path) noexcept { return Unlink(CALLER, AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char* path) noexcept {
  const int removed = Unlink(CALLER, AT_FDCWD, path, 0);
  return removed != 0 && errno == EISDIR ? Unlink(CALLER, AT_FDCWD, path, AT_REMOVEDIR) : removed;
}
int mkdir(const char* path, mode_t mode) noexcept { return MakeFolder(CALLER, AT_FDCWD, path, mode); }
int mkdirat(int folder, const char* path, mode_t mode) noexcept {
  return MakeFolder(CALLER, folder, path, mode);
}

}  // extern "C"
