// Open files, and opening a file to read it.
#pragma once

#include <string>
#include <utility>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni {

// Owns a descriptor; -1 is none.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor();

  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// Opens a regular file to read it; `flags`, such as O_DIRECT, are added to those of reading. Anything else is
// refused as "not a regular file", and is not even opened: a pipe would wait for a writer, and a device may
// act on being opened.
absl::StatusOr<FileDescriptor> OpenRegular(const std::string& path, int flags = 0);

}  // namespace omni
