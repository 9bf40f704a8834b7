// The files of a read queue, and one read of them from its first system call to its last.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "store/read/read_queue.h"

namespace omni {

// Every file is open twice, with O_DIRECT (where open takes it) and without. Thread-safe.
class ReadFiles {
 public:
  static absl::StatusOr<std::unique_ptr<ReadFiles>> Open(std::vector<std::string> paths);
  ~ReadFiles();
  ReadFiles(const ReadFiles&) = delete;
  ReadFiles& operator=(const ReadFiles&) = delete;

  int32_t size() const { return static_cast<int32_t>(files_.size()); }
  const std::string& path(int32_t file) const { return at(file).path; }
  int fd(int32_t file, bool direct) const { return direct ? at(file).direct_fd : at(file).fd; }
  bool direct(int32_t file) const { return at(file).direct.load(std::memory_order_relaxed); }
  // From now on the file is read through the page cache: its file system took the flag and then refused a
  // read.
  void StopDirect(int32_t file);
  std::string Describe() const;  // "O_DIRECT", "O_DIRECT for 3 of 5 files" or "through the page cache"

  absl::Status Check(const ReadRequest& request) const;  // InvalidArgument: it cannot be read at all

 private:
  struct File {
    std::string path;
    int fd = -1, direct_fd = -1;
    std::atomic<bool> direct{false};
  };
  ReadFiles() = default;
  absl::Status Add(std::string path);
  const File& at(int32_t file) const { return files_[static_cast<size_t>(file)]; }

  std::deque<File> files_;  // an atomic cannot be moved
};

// The errors a read ends with, apart from SystemError's.
absl::Status ReadError(const std::string& path, const ReadRequest& request, int error);
absl::Status ShortReadError(const std::string& path, const ReadRequest& request, int64_t got);
absl::Status CancelledReadError(const std::string& path, const ReadRequest& request);

// One read on its way: what to ask the system for next, and what the answer means. Belongs to one thread.
class ReadProgress {
 public:
  // `request` must have passed Check. `files` must outlive this.
  ReadProgress(const ReadRequest& request, ReadFiles* files) : request_(request), files_(files) {}

  struct Step {
    bool direct = false;  // by which of the file's descriptors
    uint64_t offset = 0;
    uint8_t* to = nullptr;
    uint32_t bytes = 0;  // at most 1 GiB
  };
  Step Next();

  // The answer to the last Next: bytes read, or a negative errno. True if the read is over: status() says
  // how. False: ask for Next and go on.
  bool Take(int64_t result);

  const ReadRequest& request() const { return request_; }
  const absl::Status& status() const { return status_; }
  int64_t got() const { return got_; }  // bytes at `to`

 private:
  ReadRequest request_;
  ReadFiles* files_;
  absl::Status status_;
  int64_t got_ = 0, from_ = 0;  // from_: where in `to` the last step began
  bool direct_ = false;         // of the last step
  int refused_ = 0;             // answers EAGAIN since bytes last came
};

}  // namespace omni
