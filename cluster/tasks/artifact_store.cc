#include "cluster/tasks/artifact_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include "cluster/tasks/sha256.h"
#include "cluster/tasks/walk_folder.h"
#include "engine/base/system_error.h"
#include "engine/base/write_all.h"
#include "store/file/files.h"

namespace omni {
namespace {

constexpr size_t kDigits = 64;
constexpr char kFresh[] = "new-";  // files that have no place yet

// As an event may have it: one that is not printable ASCII is escaped.
std::string ShownName(const std::string& name) { return absl::CHexEscape(name); }

// Through no link, wherever it lies in the path; -1: errno says why.
int OpenBelow(const std::string& folder, const std::string& name) {
  int in = ::open(folder.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  size_t at = 0;
  for (size_t slash; in >= 0 && (slash = name.find('/', at)) != std::string::npos; at = slash + 1) {
    const int below =
        ::openat(in, name.substr(at, slash - at).c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    ::close(in);
    in = below;
  }
  if (in < 0) return -1;
  const int fd = ::openat(in, name.c_str() + at, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  const int error = errno;
  ::close(in);
  errno = error;
  return fd;
}

}  // namespace

absl::StatusOr<ArtifactStore> ArtifactStore::Open(std::string folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return SystemError(folder, "create the directory", error.value());
  for (auto at = std::filesystem::directory_iterator(folder, error); !error && at != std::filesystem::end(at);
       at.increment(error)) {
    std::error_code ignored;  // begun by one who was killed
    if (at->path().filename().string().starts_with(kFresh)) std::filesystem::remove(at->path(), ignored);
  }
  ArtifactStore store(std::move(folder));
  store.Sweep();
  return store;
}

void ArtifactStore::Sweep() const {
  std::error_code error;
  const auto now = std::filesystem::file_time_type::clock::now();
  for (auto at = std::filesystem::recursive_directory_iterator(folder_, error);
       !error && at != std::filesystem::end(at); at.increment(error)) {
    std::error_code ignored;
    if (at->path().filename().string().starts_with(kFresh)) continue;
    const std::lock_guard lock(shared_->mutex);
    if (at->is_regular_file(ignored) && std::filesystem::last_write_time(at->path(), ignored) < now &&
        !ignored)
      std::filesystem::remove(at->path(), ignored);
  }
  const std::lock_guard lock(shared_->mutex);
  shared_->swept = std::chrono::steady_clock::now();
}

absl::StatusOr<std::string> ArtifactStore::PathOf(std::string_view where) const {
  const std::string_view scheme = kScheme;
  if (!where.starts_with(scheme) || where.size() != scheme.size() + kDigits ||
      where.substr(scheme.size()).find_first_not_of("0123456789abcdef") != std::string_view::npos)
    return absl::InvalidArgumentError("this is not where an artifact is");
  const std::string hex(where.substr(scheme.size()));
  return absl::StrCat(folder_, "/", hex.substr(0, 2), "/", hex);
}

// One that is there is of the same bytes, and is kept as long as before at least.
absl::Status ArtifactStore::Place(int fd, const std::string& fresh, const std::string& path,
                                  std::chrono::milliseconds keep) const {
  const std::lock_guard lock(shared_->mutex);
  const auto until = std::chrono::system_clock::now() + keep;
  int64_t seconds = std::chrono::duration_cast<std::chrono::seconds>(until.time_since_epoch()).count() + 1;
  struct stat there;
  if (::stat(path.c_str(), &there) == 0) seconds = std::max<int64_t>(seconds, there.st_mtim.tv_sec);
  const timespec times[2] = {{0, UTIME_OMIT}, {seconds, 0}};
  if (::futimens(fd, times) != 0) return SystemError(fresh, "set the time of", errno);
  if (::fsync(fd) != 0) return SystemError(fresh, "sync", errno);
  return ::rename(fresh.c_str(), path.c_str()) == 0 ? absl::OkStatus() : SystemError(path, "create", errno);
}

absl::StatusOr<std::string> ArtifactStore::Keep(int fd, const std::string& name, int64_t most,
                                                std::chrono::milliseconds keep, int64_t& bytes) const {
  std::string fresh = absl::StrCat(folder_, "/", kFresh, "XXXXXX");
  const int copy = ::mkostemp(fresh.data(), O_CLOEXEC);
  if (copy < 0) return SystemError(folder_, "make a file in it", errno);
  Sha256 hash;
  absl::Status status;
  char buffer[64 << 10];
  for (ssize_t n; status.ok() && (n = ::read(fd, buffer, sizeof buffer)) != 0;) {
    if (n < 0) {
      if (errno != EINTR) status = SystemError(name, "read", errno);
      continue;
    }
    bytes += n;
    hash.Update(buffer, static_cast<size_t>(n));
    if (bytes > most) {
      status = absl::ResourceExhaustedError(absl::StrCat("its artifacts have more than ", most, " bytes"));
    } else {
      status = WriteAll(copy, fresh, buffer, n);
    }
  }
  ::fchmod(copy, 0644);
  const std::string where = kScheme + hash.Hex();
  const std::string path = PathOf(where).value();
  const std::string folder = path.substr(0, path.rfind('/'));
  if (status.ok() && ::mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST)
    status = SystemError(folder, "create the directory", errno);
  if (status.ok()) status = Place(copy, fresh, path, keep);
  ::close(copy);
  if (status.ok()) status = SyncDirectory(folder);
  if (status.ok()) status = SyncDirectory(folder_);
  if (status.ok()) return where;
  ::unlink(fresh.c_str());
  return status;
}

absl::Status ArtifactStore::Collect(
    const std::string& folder, const Limits& limits, std::chrono::milliseconds keep,
    const std::function<void(std::string_view name, std::string_view where)>& tell) const {
  bool sweep = false;
  {
    const std::lock_guard lock(shared_->mutex);
    const auto now = std::chrono::steady_clock::now();
    sweep = now - shared_->swept >= kSweepEvery;
    if (sweep) shared_->swept = now;  // nobody else does
  }
  if (sweep) Sweep();
  std::vector<std::string> names;
  const absl::Status walked = WalkFolder(folder, [&](const FolderEntry& entry) {
    if (S_ISREG(entry.about.st_mode)) names.push_back(entry.path);
    if (static_cast<int64_t>(names.size()) > limits.files)
      return absl::ResourceExhaustedError(absl::StrCat("it left more than ", limits.files, " artifacts"));
    return absl::OkStatus();
  });
  if (absl::IsNotFound(walked)) return absl::OkStatus();
  if (!walked.ok()) return walked;
  std::sort(names.begin(), names.end());
  int64_t bytes = 0;
  for (const std::string& name : names) {
    const int fd = OpenBelow(folder, name);
    if (fd < 0) return SystemError(ShownName(name), "open", errno);
    const absl::StatusOr<std::string> where = Keep(fd, ShownName(name), limits.bytes, keep, bytes);
    ::close(fd);
    if (!where.ok()) return where.status();
    tell(ShownName(name), *where);
  }
  return absl::OkStatus();
}

absl::StatusOr<ArtifactPiece> ArtifactStore::Read(std::string_view where, int64_t offset,
                                                  int64_t most) const {
  const absl::StatusOr<std::string> path = PathOf(where);
  if (!path.ok()) return path.status();
  const std::string shown(where);
  const int fd = ::open(path->c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT)
    return absl::NotFoundError(absl::StrCat(
        shown, " is not kept here, or is no more: its task's time was over, or somebody removed it"));
  if (fd < 0) return SystemError(*path, "open", errno);
  ArtifactPiece piece;
  Sha256 hash;
  absl::Status status;
  struct stat about;
  if (::fstat(fd, &about) != 0) status = SystemError(*path, "read", errno);
  piece.size = about.st_size;
  const bool compare = offset == 0 && piece.size <= kMostCompared;
  if (status.ok() && (offset < 0 || offset > piece.size))
    status = absl::OutOfRangeError(absl::StrCat(shown, " has ", piece.size, " bytes, and none at ", offset));
  char buffer[64 << 10];
  int64_t at = offset;
  // Beyond what is asked for only to compare.
  while (status.ok() && (compare || at < offset + most)) {
    const size_t want =
        compare ? sizeof buffer : std::min<size_t>(sizeof buffer, static_cast<size_t>(offset + most - at));
    const ssize_t n = ::pread(fd, buffer, want, at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) status = SystemError(*path, "read", errno);
    if (n <= 0) break;
    hash.Update(buffer, static_cast<size_t>(n));
    const int64_t room = most - static_cast<int64_t>(piece.data.size());
    piece.data.append(buffer, static_cast<size_t>(std::clamp<int64_t>(n, 0, std::max<int64_t>(room, 0))));
    at += n;
  }
  ::close(fd);
  if (!status.ok()) return status;
  if (compare && kScheme + hash.Hex() != where)
    return absl::DataLossError(absl::StrCat(*path,
                                            " is damaged: its bytes are not those that were kept; look at "
                                            "the disk"));
  return piece;
}

}  // namespace omni
