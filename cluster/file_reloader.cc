#include "cluster/file_reloader.h"

#include <sys/stat.h>

#include <mutex>
#include <utility>

namespace omni {
namespace {

constexpr std::chrono::seconds kLook{1};

// What tells one file from another of the same name.
struct FileVersion {
  uint64_t device = 0, inode = 0, size = 0;
  int64_t modified_ns = 0;
  bool operator==(const FileVersion&) const = default;
};

// All zero: there is none.
FileVersion VersionOf(const std::string& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return {};
  constexpr int64_t kBillion = 1'000'000'000;
  return {st.st_dev, st.st_ino, static_cast<uint64_t>(st.st_size),
          st.st_mtim.tv_sec * kBillion + st.st_mtim.tv_nsec};
}

}  // namespace

struct FileReloader::Impl {
  const std::vector<std::string> paths;
  const std::function<absl::Status()> read;
  const std::function<void(const absl::Status&)> failed;
  const Ticks ticks;

  std::vector<FileVersion> Versions() const {
    std::vector<FileVersion> versions;
    for (const std::string& path : paths) versions.push_back(VersionOf(path));
    return versions;
  }

  std::mutex mutex;
  std::chrono::steady_clock::time_point looked;

  std::mutex reading;  // held by whoever reads
  std::vector<FileVersion> taken;
  std::string told;  // why it failed last; empty: it did not
};

FileReloader::FileReloader(std::vector<std::string> paths, std::function<absl::Status()> read,
                           std::function<void(const absl::Status&)> failed, Ticks ticks)
    : impl_(new Impl{
          std::move(paths), std::move(read), std::move(failed), std::move(ticks), {}, {}, {}, {}, {}}) {}
FileReloader::~FileReloader() = default;

absl::Status FileReloader::Open() {
  impl_->looked = impl_->ticks();
  // Before they are read: what comes in between is another version, and is read again.
  impl_->taken = impl_->Versions();
  return impl_->read();
}

void FileReloader::Look() {
  {
    const std::lock_guard lock(impl_->mutex);
    const auto now = impl_->ticks();
    if (now - impl_->looked < kLook) return;
    impl_->looked = now;
  }
  const std::unique_lock alone(impl_->reading, std::try_to_lock);
  if (!alone.owns_lock()) return;
  std::vector<FileVersion> versions = impl_->Versions();
  if (versions == impl_->taken) {  // perhaps again
    impl_->told.clear();
    return;
  }
  const absl::Status read = impl_->read();
  if (read.ok()) {
    impl_->taken = std::move(versions);
    impl_->told.clear();
    return;
  }
  const std::string why = read.ToString();
  if (std::exchange(impl_->told, why) != why) impl_->failed(read);
}

}  // namespace omni
