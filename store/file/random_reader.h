// Reads of a file at any place, one at a time.
#pragma once

#include <cstdint>
#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni {

// Thread-safe. Errors name the file.
class RandomReader {
 public:
  static absl::StatusOr<RandomReader> Open(const std::string& path);  // a regular file
  RandomReader(RandomReader&& other) noexcept;
  RandomReader& operator=(RandomReader&&) = delete;
  ~RandomReader();

  // Exactly `bytes` bytes from `offset` on; DataLoss if the file ends before.
  absl::Status ReadAt(int64_t offset, void* to, int64_t bytes) const;

 private:
  RandomReader(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  std::string path_;
  int fd_;
};

}  // namespace omni
