#include "cluster/tasks/artifact_store.h"

#include <fcntl.h>
#include <openssl/evp.h>
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

#include "cluster/tasks/walk_folder.h"
#include "engine/base/system_error.h"
#include "store/file/files.h"

namespace omni {
namespace {

constexpr size_t kDigits = 64;

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new()) { EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr); }
  void Update(const void* data, size_t bytes) { EVP_DigestUpdate(context_.get(), data, bytes); }
  std::string Hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int bytes = 0;
    EVP_DigestFinal_ex(context_.get(), digest, &bytes);
    return absl::BytesToHexString({reinterpret_cast<const char*>(digest), bytes});
  }

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context_;
};

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

absl::StatusOr<ArtifactStore> ArtifactStore::Open(std::string folder, std::chrono::hours keep) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return SystemError(folder, "create the directory", error.value());
  const auto oldest = std::filesystem::file_time_type::clock::now() - keep;
  for (auto at = std::filesystem::recursive_directory_iterator(folder, error);
       !error && at != std::filesystem::end(at); at.increment(error)) {
    std::error_code ignored;
    const bool begun = at->path().filename().string().starts_with("new-");  // by one who was killed
    if (at->is_regular_file(ignored) && (begun || at->last_write_time(ignored) < oldest))
      std::filesystem::remove(at->path(), ignored);
  }
  return ArtifactStore(std::move(folder));
}

absl::StatusOr<std::string> ArtifactStore::PathOf(std::string_view where) const {
  const std::string_view scheme = kScheme;
  if (!where.starts_with(scheme) || where.size() != scheme.size() + kDigits ||
      where.substr(scheme.size()).find_first_not_of("0123456789abcdef") != std::string_view::npos)
    return absl::InvalidArgumentError("this is not where an artifact is");
  const std::string hex(where.substr(scheme.size()));
  return absl::StrCat(folder_, "/", hex.substr(0, 2), "/", hex);
}

absl::StatusOr<std::string> ArtifactStore::Keep(int fd, const std::string& name, int64_t most,
                                                int64_t& bytes) const {
  std::string fresh = folder_ + "/new-XXXXXX";
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
    } else if (::write(copy, buffer, static_cast<size_t>(n)) != n) {
      status = SystemError(fresh, "write", errno);
    }
  }
  ::fchmod(copy, 0644);
  if (status.ok() && ::fsync(copy) != 0) status = SystemError(fresh, "sync", errno);
  ::close(copy);
  const std::string where = kScheme + hash.Hex();
  const std::string path = PathOf(where).value();
  const std::string folder = path.substr(0, path.rfind('/'));
  // One that is there is of the same bytes, and is kept longer from now on.
  if (status.ok() && ::mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST)
    status = SystemError(folder, "create the directory", errno);
  if (status.ok() && ::rename(fresh.c_str(), path.c_str()) != 0) status = SystemError(path, "create", errno);
  if (status.ok()) status = SyncDirectory(folder);
  if (status.ok()) status = SyncDirectory(folder_);
  if (status.ok()) return where;
  ::unlink(fresh.c_str());
  return status;
}

absl::Status ArtifactStore::Collect(
    const std::string& folder, const Limits& limits,
    const std::function<void(std::string_view name, std::string_view where)>& tell) const {
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
    const absl::StatusOr<std::string> where = Keep(fd, ShownName(name), limits.bytes, bytes);
    ::close(fd);
    if (!where.ok()) return where.status();
    tell(ShownName(name), *where);
  }
  return absl::OkStatus();
}

}  // namespace omni
