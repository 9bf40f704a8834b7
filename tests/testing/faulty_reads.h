// A read queue whose disk goes wrong when a test says so.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "store/read/read_queue.h"

namespace omni::testing {

struct Fault {
  enum class Kind {
    kNone,
    kFlipBit,  // the read succeeds with bit `at` of what it read flipped, which must be below 8 * bytes
    kShorten,  // the file ends `at` bytes after the read's offset: DataLoss if more are needed
    kFail,     // EIO
  };
  Kind kind = Kind::kNone;
  int64_t at = 0;
};

// Asked once for every request, when it is submitted, by the thread that submits it.
using FaultRule = std::function<Fault(const ReadRequest& request)>;

// ReadQueue::Open with a queue between that and the caller which spoils reads by `rule`. Statuses are those
// of real faults; where bytes are missing, others than the file's are left at `to`. Only Stats does not count
// the faults. Tags may repeat.
absl::StatusOr<std::unique_ptr<ReadQueue>> OpenFaultyReads(std::vector<std::string> paths,
                                                           const ReadQueueOptions& options, FaultRule rule,
                                                           ReadQueue::Done done);

}  // namespace omni::testing
