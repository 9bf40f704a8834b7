#include "store/read/read_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/log.h"
#include "engine/base/open_file.h"
#include "engine/base/system_error.h"

namespace omni {
namespace {

constexpr int64_t kLargestStep = int64_t{1} << 30;  // below what one system call reads at most, 2 GiB - 4096
constexpr int kMostRefusals = 100;                  // a file that never gets ready is an error, not a loop

bool Aligned(const ReadRequest& request) {
  const uint64_t all =
      request.offset | static_cast<uint64_t>(request.bytes) | reinterpret_cast<uintptr_t>(request.to);
  return all % static_cast<uint64_t>(kReadBlock) == 0;
}

void LogDirectRefused(int64_t files, const std::string& path) {
  LogWarning("direct_refused", "{path} is read through the page cache: its file system refuses O_DIRECT",
             {{"path", path}, {"files", files}});
}

}  // namespace

absl::StatusOr<std::unique_ptr<ReadFiles>> ReadFiles::Open(std::vector<std::string> paths) {
  std::unique_ptr<ReadFiles> files(new ReadFiles);
  for (std::string& path : paths) {
    if (absl::Status s = files->Add(std::move(path)); !s.ok()) return s;
  }
  const auto cached = [](const File& file) { return file.direct_fd < 0; };
  const int64_t count = std::count_if(files->files_.begin(), files->files_.end(), cached);
  if (count > 0) {
    LogDirectRefused(count, std::find_if(files->files_.begin(), files->files_.end(), cached)->path);
  }
  return files;
}

void ReadFiles::StopDirect(int32_t file) {
  File& stopped = files_[static_cast<size_t>(file)];
  if (stopped.direct.exchange(false, std::memory_order_relaxed)) LogDirectRefused(1, stopped.path);
}

ReadFiles::~ReadFiles() {
  for (const File& file : files_) {
    if (file.fd >= 0) ::close(file.fd);
    if (file.direct_fd >= 0) ::close(file.direct_fd);
  }
}

absl::Status ReadFiles::Add(std::string path) {
  File& file = files_.emplace_back();
  file.path = std::move(path);
  absl::StatusOr<FileDescriptor> plain = OpenRegular(file.path);
  if (!plain.ok()) return plain.status();
  file.fd = plain->release();
  struct stat st, direct_st;
  if (::fstat(file.fd, &st) != 0) return SystemError(file.path, "examine", errno);
  // Blocks are read in no order: what the kernel would read ahead is not what comes next.
  (void)::posix_fadvise(file.fd, 0, 0, POSIX_FADV_RANDOM);

  file.direct_fd = ::open(file.path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
  // This file system has no O_DIRECT.
  if (file.direct_fd < 0 && (errno == EINVAL || errno == EOPNOTSUPP)) return absl::OkStatus();
  if (file.direct_fd < 0) return SystemError(file.path, "open", errno);
  if (::fstat(file.direct_fd, &direct_st) != 0) return SystemError(file.path, "examine", errno);
  if (direct_st.st_dev != st.st_dev || direct_st.st_ino != st.st_ino)
    return absl::UnavailableError(
        absl::StrCat(file.path, ": was replaced while it was opened; open the model again"));
  file.direct.store(true, std::memory_order_relaxed);
  return absl::OkStatus();
}

std::string ReadFiles::Describe() const {
  const int64_t direct = std::count_if(files_.begin(), files_.end(), [](const File& file) {
    return file.direct.load(std::memory_order_relaxed);
  });
  if (direct == 0) return "through the page cache";
  if (direct == size()) return "O_DIRECT";
  return absl::StrCat("O_DIRECT for ", direct, " of ", size(), " files");
}

absl::Status ReadFiles::Check(const ReadRequest& request) const {
  if (request.file < 0 || request.file >= size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot read file ", request.file, ": the queue has ", size(), " files"));
  }
  if (request.bytes < 1 || request.needed < 0 || request.needed > request.bytes || request.to == nullptr ||
      request.offset > static_cast<uint64_t>(INT64_MAX - request.bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path(request.file), ": cannot read ", request.bytes, " bytes at ", request.offset,
                     ", of which ", request.needed, " needed", request.to == nullptr ? ", to no address" : "",
                     "; the request makes no sense"));
  }
  return absl::OkStatus();
}

absl::Status ReadError(const std::string& path, const ReadRequest& request, int error) {
  return SystemError(path, absl::StrCat("read ", request.bytes, " bytes at ", request.offset), error);
}

absl::Status ShortReadError(const std::string& path, const ReadRequest& request, int64_t got) {
  return absl::DataLossError(
      absl::StrCat(path, ": read ", got, " bytes of ", request.needed, " at ", request.offset,
                   "; the file is shorter than its header says: copy it again or pack the model again"));
}

absl::Status CancelledReadError(const std::string& path, const ReadRequest& request) {
  return absl::CancelledError(absl::StrCat(path, ": did not read ", request.bytes, " bytes at ",
                                           request.offset, ": the queue was closed before"));
}

ReadProgress::Step ReadProgress::Next() {
  direct_ = files_->direct(request_.file) && Aligned(request_);
  // A direct read that stopped inside a block begins with that block again.
  from_ = direct_ ? got_ / kReadBlock * kReadBlock : got_;
  return {.direct = direct_,
          .offset = request_.offset + static_cast<uint64_t>(from_),
          .to = request_.to + from_,
          .bytes = static_cast<uint32_t>(std::min(kLargestStep, request_.bytes - from_))};
}

bool ReadProgress::Take(int64_t result) {
  if (result == -EINTR) return false;
  if (result == -EAGAIN && ++refused_ < kMostRefusals) return false;
  if (result == -EINVAL && direct_) {  // takes the flag and then refuses, or wants larger blocks
    files_->StopDirect(request_.file);
    return false;
  }
  if (result < 0) {
    status_ = ReadError(files_->path(request_.file), request_, static_cast<int>(-result));
    return true;
  }
  const bool moved = from_ + result > got_;
  got_ = std::max(got_, from_ + result);
  refused_ = 0;
  if (got_ >= request_.needed) return true;
  if (moved) return false;
  status_ = ShortReadError(files_->path(request_.file), request_, got_);
  return true;
}

}  // namespace omni
