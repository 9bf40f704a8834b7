// A file that comes from elsewhere, front to back, and is in its place only when all of it is there.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/base/open_file.h"
#include "store/file/files.h"
#include "store/file/hash.h"

namespace omni {

// One thread. What came of an unfinished file stays, and is gone on with; nothing of it is believed before
// the digest of the whole file holds.
class IncomingFile {
 public:
  // The file is to lie at `path` and gathers at `temporary`, on the same file system; the folders of both are
  // there, and nobody else writes them.
  static absl::StatusOr<IncomingFile> Open(std::string temporary, std::string path, const FileDigest& want);
  IncomingFile(IncomingFile&&) = default;

  int64_t size() const { return size_; }  // what is there of it, and where Append goes on
  absl::Status Append(std::string_view bytes);
  // Synced and in its place, and there to stay. DataLoss: it is not the file that was asked for, and what
  // came was thrown away.
  absl::Status Finish();

 private:
  IncomingFile(std::string temporary, std::string path, const FileDigest& want, FileDescriptor file)
      : temporary_(std::move(temporary)), path_(std::move(path)), want_(want), file_(std::move(file)) {}
  absl::Status TakeWhatIsThere();

  std::string temporary_, path_;
  FileDigest want_;
  FileDescriptor file_;
  std::unique_ptr<StreamHash> hash_ = std::make_unique<StreamHash>();
  int64_t size_ = 0;
};

}  // namespace omni
