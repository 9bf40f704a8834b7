// Files and directories with absl::Status errors that name the path and the system's reason.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/base/system_error.h"
#include "store/file/hash.h"

namespace omni {

// Bytes at an address aligned to 64, and to 2 MiB with transparent huge pages asked for if there are that
// many.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  static absl::StatusOr<AlignedBuffer> Allocate(int64_t bytes);
  uint8_t* data() { return data_.get(); }
  const uint8_t* data() const { return data_.get(); }
  int64_t size() const { return size_; }

 private:
  struct Free {
    void operator()(uint8_t* p) const;
  };
  std::unique_ptr<uint8_t[], Free> data_;
  int64_t size_ = 0;
};

// All that read a file refuse what is no regular file, without waiting for it.

// The whole file, which must be exactly `bytes` long.
absl::StatusOr<AlignedBuffer> ReadAligned(const std::string& path, int64_t bytes);
// The whole file; refuses one longer than `limit`.
absl::StatusOr<std::string> ReadText(const std::string& path, int64_t limit);

// The first `bytes` bytes of a file, or all of a shorter one.
absl::StatusOr<std::string> ReadStart(const std::string& path, int64_t bytes);

struct FileDigest {
  int64_t bytes = 0;
  Hash128 hash;
};
absl::StatusOr<FileDigest> DigestFile(const std::string& path);

// Every file below `dir`, as paths relative to it, sorted; directories themselves are not listed unless empty
// (then with a trailing slash).
absl::StatusOr<std::vector<std::string>> ListFiles(const std::string& dir);

bool IsDirectory(const std::string& path);
absl::Status MakeDirectory(const std::string& path);
absl::Status RemoveFile(const std::string& path);
absl::StatusOr<int64_t> FreeBytes(
    const std::string& path);                    // that this user may fill, on the file system of `path`
absl::Status SyncFile(const std::string& path);  // an existing file, written by others
absl::Status SyncDirectory(const std::string& path);

// A new file, written once. Closed, but kept, by the destructor.
class FileWriter {
 public:
  static absl::StatusOr<FileWriter> Create(const std::string& path);  // fails if `path` exists
  FileWriter(FileWriter&& other) noexcept;
  FileWriter& operator=(FileWriter&&) = delete;
  ~FileWriter();

  absl::Status Append(const void* data, int64_t bytes);
  absl::Status AppendZeros(int64_t bytes);
  absl::Status WriteAt(int64_t offset, const void* data, int64_t bytes);
  absl::Status Sync();  // fsync and close
  int64_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  FileWriter(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string path_;
  int fd_;
  int64_t size_ = 0;
};

// A new file. Its name lasts once its folder is synced too.
absl::Status WriteFileSynced(const std::string& path, std::string_view bytes);

}  // namespace omni
