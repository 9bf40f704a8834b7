// Reads of a file at any place, one at a time.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/base/open_file.h"

namespace omni {

// Thread-safe. Errors name the file.
class RandomReader {
 public:
  static absl::StatusOr<RandomReader> Open(const std::string& path);  // a regular file

  // Exactly `bytes` bytes from `offset` on; DataLoss if the file ends before.
  absl::Status ReadAt(int64_t offset, void* to, int64_t bytes) const;

 private:
  RandomReader(std::string path, FileDescriptor file) : path_(std::move(path)), file_(std::move(file)) {}

  std::string path_;
  FileDescriptor file_;
};

}  // namespace omni
