// Files that are replaced whole.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/base/open_file.h"

namespace omni {

// Problem: a program that is killed, a disk that is full, or a power cut in the middle of writing must not
// leave half a file in the old one's place; and what such a program leaves must not stay for ever. Solution:
// the bytes go to PATH.tmp-<16 hex digits> beside it, which is synced and then renamed to PATH, and then the
// folder is synced. A writer holds a lock (flock) on its temporary file; whoever replaces PATH next removes
// those that nobody holds. Any number of writers may replace the same file: the last one's bytes stay.
class FileReplacement {
 public:
  // Symbolic links are followed. What is at `path` keeps its mode, and must be a regular file; where nothing
  // is, `mode` less the process's mask is that of the new one, from the first byte on.
  static absl::StatusOr<FileReplacement> Begin(const std::string& path, mode_t mode = 0666);
  FileReplacement(FileReplacement&&) noexcept = default;
  FileReplacement& operator=(FileReplacement&&) = delete;
  ~FileReplacement();  // before a Commit: as if nothing had been begun

  absl::Status Append(const void* data, int64_t bytes);
  absl::Status Append(std::string_view bytes) {
    return Append(bytes.data(), static_cast<int64_t>(bytes.size()));
  }
  // The new bytes are at `path`, and stay there even if the power fails now. On an error the old ones are
  // there, unless only the folder could not be synced: then the new ones are, but may not stay.
  absl::Status Commit();

 private:
  FileReplacement(std::string path, std::string temporary, FileDescriptor file);

  std::string path_, temporary_;  // temporary_ is empty once it has become path_
  FileDescriptor file_;
};

absl::Status ReplaceFile(const std::string& path, std::string_view bytes);

// For a file that a user names to write results to: replaces it, or if it is a pipe or a device, or one of
// this process's open files (/dev/stdout), writes to it.
absl::Status WriteOutput(const std::string& path, std::string_view bytes);

}  // namespace omni
