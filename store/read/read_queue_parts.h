// What the two kinds of read queue share, and how each is made. Only for store/read_queue*.cc.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "store/read/read_files.h"
#include "store/read/read_queue.h"

namespace omni {

// One read of the system for one request, or for several whose bytes lie side by side.
struct TakenRead {
  ReadRequest request;             // of all; the tag is the first's
  std::vector<ReadRequest> parts;  // if there are several
  size_t requests() const { return std::max<size_t>(1, parts.size()); }
};

// Reads that have not begun, in the order in which they are to begin. Guarded by its owner's mutex.
class WaitingReads {
 public:
  void Add(std::span<const ReadRequest> requests, ReadUrgency urgency);
  // Parts of a read that failed: before all others, each by itself, so that an error is that of its request.
  void AddAlone(std::span<const ReadRequest> parts);
  void Promote(uint64_t tag);  // the first with that tag that nobody asked for
  std::optional<TakenRead> Take();
  bool empty() const;

 private:
  std::deque<ReadRequest> alone_;
  std::array<std::deque<ReadRequest>, kReadUrgencies> waiting_;
};

// Counts reads and the time in which there were any. Thread-safe.
class ReadMeter {
 public:
  void Begin();
  // Of so many requests; none: they are read once more.
  void End(int64_t bytes, size_t requests, bool ok);
  ReadQueue::Stats stats() const;

 private:
  mutable std::mutex mutex_;
  ReadQueue::Stats stats_;  // busy_ns: without the time since busy_since_
  int64_t in_flight_ = 0;
  std::chrono::steady_clock::time_point busy_since_;  // if in_flight_ > 0
};

// Asks the scheduler to run this thread soon after it wakes, although others compute: a short time slice.
// Without it a thread that wakes may wait for the rest of another's slice, longer than a read takes. Linux
// before 6.12: no effect.
void RunPromptly();

struct ReadQueueParts {
  std::unique_ptr<ReadFiles> files;
  ReadQueue::Done done;
};

// Takes `parts` only if it succeeds. Its error says why io_uring cannot be used, and what to do.
absl::StatusOr<std::unique_ptr<ReadQueue>> OpenUringQueue(const ReadQueueOptions& options,
                                                          ReadQueueParts* parts);
// `note` is added to the description if it is not empty.
absl::StatusOr<std::unique_ptr<ReadQueue>> OpenPreadQueue(const ReadQueueOptions& options,
                                                          const std::string& note, ReadQueueParts* parts);

}  // namespace omni
