// Reads of blocks of files, many at once and out of order, past the page cache.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "store/read/read_urgency.h"

namespace omni {

// What O_DIRECT's offsets, sizes and addresses are multiples of, on every disk in use.
inline constexpr int64_t kReadBlock = 4096;

// A read whose offset, bytes and address are all multiples of kReadBlock goes past the page cache where the
// file allows that. Any other read is taken as well, but through the page cache.
struct ReadRequest {
  int32_t file = 0;     // index into the paths given to Open
  uint64_t offset = 0;  // in the file
  int64_t bytes = 0;    // at least 1; the last block may reach past the end of the file
  // Bytes that must be there, at most `bytes`: fewer is an error. What follows them is read where that costs
  // nothing, and must not be relied on.
  int64_t needed = 0;
  uint8_t* to = nullptr;  // `bytes` bytes, the queue's from Submit until `done` is called
  uint64_t tag = 0;       // the caller's; best unique among the reads that wait
};

enum class ReadMethod { kAuto, kUring, kPread };

struct ReadQueueOptions {
  ReadMethod method = ReadMethod::kAuto;  // kAuto: io_uring, and pread where that is not allowed
  // Reads in flight with io_uring, 1 to 4096, where one made of several requests counts as one for every 128
  // KiB. With tiles of 160 kB, 32 give the disk's full speed; more only makes a read that is asked for wait
  // longer behind those that have begun.
  int depth = 32;
  int threads = 8;  // of pread, each with one read in flight, 1 to 256
  // Where reads go. io_uring registers it, which pins it: all of it becomes resident at Open. Reads to other
  // addresses, and all reads where registering is not allowed, cost a little more. May be empty; else it must
  // outlive the queue.
  std::span<uint8_t> memory;
};

class ReadQueue {
 public:
  // Called once per request, from a thread of the queue and with no lock held. With pread from several
  // threads at once. It may submit, but must not wait for other reads, nor destroy the queue. Errors name
  // file, offset and reason: DataLoss for a file that ends too early, InvalidArgument for a request that
  // makes no sense, Cancelled for a read that was not begun before the queue was closed (do not submit it
  // again), else the system's reason as SystemError converts it. After an error the bytes at `to` are
  // undefined.
  using Done = std::function<void(uint64_t tag, const absl::Status& status)>;

  // Opens every file, which must be regular and readable. Fails with ReadMethod::kUring where io_uring cannot
  // be used.
  static absl::StatusOr<std::unique_ptr<ReadQueue>> Open(std::vector<std::string> paths,
                                                         const ReadQueueOptions& options, Done done);
  // Waits for what is in flight; what was not begun is completed with Cancelled.
  virtual ~ReadQueue() = default;
  ReadQueue(const ReadQueue&) = delete;
  ReadQueue& operator=(const ReadQueue&) = delete;

  // Thread-safe, never waits for the disk. Requests of equal size that follow each other in the order of
  // beginning, in the file and in memory are read in one go, up to 1.5 MiB.
  virtual void Submit(std::span<const ReadRequest> requests, ReadUrgency urgency) = 0;
  // A waiting (not begun) read with that tag becomes one that is asked for. No effect on others. Thread-safe;
  // may look at every waiting read.
  virtual void Promote(uint64_t tag) = 0;

  // The memory of the options is as any other from now on: what was registered has been let go of when this
  // returns. Waits for reads in flight; not to be called from `done`. Thread-safe.
  virtual void ForgetMemory() {}

  virtual ReadMethod method() const = 0;  // the one in use
  // Whether reads of this file go past the page cache now. Turns false at the first read that the file system
  // refuses.
  virtual bool direct(int32_t file) const = 0;
  // What is really in use and why, for logs: "io_uring, O_DIRECT, registered buffers".
  virtual std::string description() const = 0;

  struct Stats {
    int64_t reads = 0;    // requests ended, well or not; without the cancelled ones
    int64_t begun = 0;    // reads of one request or several
    int64_t bytes = 0;    // read, also those past `needed`
    int64_t errors = 0;   // of `reads`
    int64_t busy_ns = 0;  // wall time with at least one read in flight
  };
  virtual Stats stats() const = 0;  // since Open. Thread-safe

 protected:
  ReadQueue() = default;
};

}  // namespace omni
