#include "store/file/file_stream.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <absl/strings/str_cat.h>

namespace omni {
namespace {

constexpr int64_t kChunk = int64_t{8} << 20;
constexpr int64_t kBlock =
    4096;  // what O_DIRECT's offsets and addresses are multiples of, on every disk in use

}  // namespace

absl::StatusOr<FileStream> FileStream::Open(const std::string& path, int64_t max_keep, Cache cache) {
  const bool pass = cache == Cache::kPass;
  absl::StatusOr<FileDescriptor> file = OpenRegular(path, pass ? O_DIRECT : 0);
  // Some file systems have no O_DIRECT; any other error comes again.
  const bool direct = pass && file.ok();
  if (pass && !direct) file = OpenRegular(path);
  if (!file.ok()) return file.status();
  const int fd = file->get();
  FileStream stream(path, *std::move(file));
  stream.direct_ = direct;
  stream.drop_ = pass;
  struct stat st;
  if (::fstat(fd, &st) != 0) return SystemError(path, "examine", errno);
  stream.size_ = static_cast<int64_t>(st.st_size);
  stream.lead_ = (max_keep + kBlock - 1) / kBlock * kBlock;
  absl::StatusOr<AlignedBuffer> buffer = AlignedBuffer::Allocate(stream.lead_ + kChunk);
  if (!buffer.ok()) {
    return absl::Status(buffer.status().code(), absl::StrCat(path, ": ", buffer.status().message()));
  }
  stream.buffer_ = *std::move(buffer);
  if (!direct) (void)::posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
  return stream;
}

// A whole chunk, or what there is up to the end of the file. Every read begins at a multiple of a chunk.
absl::StatusOr<int64_t> FileStream::ReadChunk() {
  const int64_t want = std::min(kChunk, size_ - end_);
  int64_t done = 0;
  while (done < want) {
    // O_DIRECT takes whole blocks only, also where the file ends inside one.
    const ssize_t n = ::pread(file_.get(), buffer_.data() + lead_ + done, static_cast<size_t>(kChunk - done),
                              static_cast<off_t>(end_ + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EINVAL &&
        direct_) {  // the file system takes the flag and then refuses, or wants larger blocks
      const int flags = ::fcntl(file_.get(), F_GETFL);
      if (flags < 0 || ::fcntl(file_.get(), F_SETFL, flags & ~O_DIRECT) != 0)
        return SystemError(path_, "read", errno);
      direct_ = false;
      (void)::posix_fadvise(file_.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
      continue;
    }
    if (n < 0) return SystemError(path_, "read", errno);
    if (n == 0) return absl::DataLossError(absl::StrCat(path_, ": became shorter while it was read"));
    done += n;
  }
  return want;
}

absl::Status FileStream::Next(int64_t keep) {
  // The bytes behind keep their place within a block, so that what is aligned in the file is so in memory.
  if (keep > 0)
    std::memmove(buffer_.data() + lead_ - keep, data() + length_ - keep, static_cast<size_t>(keep));
  if (drop_ && !direct_ && end_ > 0) (void)::posix_fadvise(file_.get(), 0, end_, POSIX_FADV_DONTNEED);
  kept_ = length_ = keep;
  absl::StatusOr<int64_t> got = ReadChunk();
  if (!got.ok()) return got.status();
  length_ += *got;
  end_ += *got;
  return absl::OkStatus();
}

}  // namespace omni
