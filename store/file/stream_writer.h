// A file written front to back at the disk's speed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "store/file/files.h"

namespace omni {

// Problem: a caller that makes bytes, hashes them and writes them does one thing at a time, and the page
// cache costs a copy. Solution: full buffers are hashed and written by a thread of their own, past the page
// cache where the file system allows it. The first bytes (the head) are known before the rest and written
// last, when the rest is synced: a file that its writer did not finish, or a power cut did not let it, begins
// with zeros.
class StreamWriter {
 public:
  // Fails if `path` exists. `head` is what the file will begin with; `expected_bytes` (0: unknown) is
  // reserved on the disk at once, so that a full disk is found now.
  static absl::StatusOr<std::unique_ptr<StreamWriter>> Create(const std::string& path, std::string_view head,
                                                              int64_t expected_bytes);
  ~StreamWriter();  // waits for the thread; the file stays as it is

  // Errors may be those of an earlier call's bytes. After an error only the destructor may follow.
  absl::Status Append(const void* data, int64_t bytes);
  absl::Status AppendZeros(int64_t bytes);
  // Writes what is left and the head (if it is not the one promised, the file is read once more to hash it),
  // syncs, closes.
  absl::StatusOr<FileDigest> Finish(std::string_view head);
  int64_t size() const;  // appended so far, the head included

 private:
  struct Impl;
  explicit StreamWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
