#include "store/partial/incoming_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include <absl/strings/str_cat.h>

#include "store/partial/partial_folder.h"

namespace omni {

absl::StatusOr<IncomingFile> IncomingFile::Open(std::string temporary, std::string path,
                                                const FileDigest& want) {
  FileDescriptor file(::open(temporary.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666));
  if (file.get() < 0) return SystemError(temporary, "create", errno);
  IncomingFile incoming(std::move(temporary), std::move(path), want, std::move(file));
  if (absl::Status s = incoming.TakeWhatIsThere(); !s.ok()) return s;
  return incoming;
}

absl::Status IncomingFile::TakeWhatIsThere() {
  std::string chunk(size_t{1} << 20, '\0');
  while (true) {
    const ssize_t n = ::pread(file_.get(), chunk.data(), chunk.size(), static_cast<off_t>(size_));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(temporary_, "read", errno);
    if (n == 0) break;
    hash_->Update(chunk.data(), static_cast<size_t>(n));
    size_ += n;
  }
  if (size_ <= want_.bytes) return absl::OkStatus();
  if (::ftruncate(file_.get(), 0) != 0) return SystemError(temporary_, "empty", errno);
  size_ = 0;
  hash_ = std::make_unique<StreamHash>();
  return absl::OkStatus();
}

absl::Status IncomingFile::Append(std::string_view bytes) {
  if (static_cast<int64_t>(bytes.size()) > want_.bytes - size_) {
    return absl::DataLossError(
        absl::StrCat(path_, ": more bytes came than the ", want_.bytes, " that it has"));
  }
  if (absl::Status s = WriteFully(file_.get(), temporary_, size_, bytes); !s.ok()) return s;
  hash_->Update(bytes);
  size_ += static_cast<int64_t>(bytes.size());
  return absl::OkStatus();
}

absl::Status IncomingFile::Finish() {
  if (size_ != want_.bytes || hash_->Digest() != want_.hash) {
    ::unlink(temporary_.c_str());
    return absl::DataLossError(absl::StrCat(path_, ": what came is not the file that the model has"));
  }
  if (::fsync(file_.get()) != 0) return SystemError(temporary_, "fsync", errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return SystemError(path_, "put in its place", errno);
  return SyncDirectory(std::filesystem::path(path_).parent_path().string());
}

}  // namespace omni
