// A file read once from its beginning to its end, in large chunks and as fast as the disk gives it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/base/open_file.h"
#include "store/file/files.h"

namespace omni {

// Shows the file as a window that moves on by a chunk of 8 MiB at a time. Reads past the page cache
// (O_DIRECT) where the file system allows it; elsewhere asks for read-ahead, and gives the pages back behind
// the window. One thread.
class FileStream {
 public:
  enum class Cache { kPass, kUse };  // kUse: read through the page cache, for a file that is read again soon

  // `max_keep` bounds Next's `keep`.
  static absl::StatusOr<FileStream> Open(const std::string& path, int64_t max_keep, Cache cache);

  int64_t size() const { return size_; }  // of the file when it was opened

  // Moves on: the window's last `keep` bytes stay, the next chunk follows them. An error if the file has
  // become shorter.
  absl::Status Next(int64_t keep);
  // The window: bytes begin() to end() - 1 of the file. Empty before the first Next. data() is aligned to 64
  // if begin() is.
  const uint8_t* data() const { return buffer_.data() + lead_ - kept_; }
  int64_t begin() const { return end_ - length_; }
  int64_t end() const { return end_; }
  bool at_end() const { return end_ == size_; }
  bool direct() const { return direct_; }

 private:
  FileStream(std::string path, FileDescriptor file) : path_(std::move(path)), file_(std::move(file)) {}
  absl::StatusOr<int64_t> ReadChunk();

  std::string path_;
  FileDescriptor file_;
  int64_t size_ = 0;
  bool direct_ = false, drop_ = false;  // drop_: give pages back
  AlignedBuffer buffer_;                // lead_ bytes, of which the last kept_ are used, then a chunk
  int64_t lead_ = 0, kept_ = 0, length_ = 0, end_ = 0;
};

}  // namespace omni
