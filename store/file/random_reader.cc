#include "store/file/random_reader.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

#include <absl/strings/str_cat.h>

#include "store/file/files.h"

namespace omni {

absl::StatusOr<RandomReader> RandomReader::Open(const std::string& path) {
  absl::StatusOr<FileDescriptor> file = OpenRegular(path);
  if (!file.ok()) return file.status();
  return RandomReader(path, *std::move(file));
}

absl::Status RandomReader::ReadAt(int64_t offset, void* to, int64_t bytes) const {
  auto* at = static_cast<uint8_t*>(to);
  while (bytes > 0) {
    const ssize_t n = ::pread(file_.get(), at, static_cast<size_t>(bytes), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(path_, "read", errno);
    if (n == 0) {
      return absl::DataLossError(absl::StrCat(path_, ": ends ", bytes, " bytes too early, at ", offset));
    }
    at += n;
    offset += n;
    bytes -= n;
  }
  return absl::OkStatus();
}

}  // namespace omni
