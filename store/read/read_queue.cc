#include "store/read/read_queue.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/log.h"
#include "store/read/read_queue_parts.h"

namespace omni {
namespace {

constexpr int kMostDepth = 4096, kMostThreads = 256;

using Clock = std::chrono::steady_clock;

// struct sched_attr of Linux, whose header does not go together with <sched.h> of glibc 2.36.
struct SchedulerAttributes {
  uint32_t size = sizeof(SchedulerAttributes);
  uint32_t policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime = 0, deadline = 0, period = 0;
};

int64_t NanosecondsSince(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
}

}  // namespace

void WaitingReads::Add(std::span<const ReadRequest> requests, bool urgent) {
  std::deque<ReadRequest>& to = urgent ? urgent_ : normal_;
  to.insert(to.end(), requests.begin(), requests.end());
}

void WaitingReads::Promote(uint64_t tag) {
  const auto it = std::find_if(normal_.begin(), normal_.end(),
                               [tag](const ReadRequest& request) { return request.tag == tag; });
  if (it == normal_.end()) return;
  urgent_.push_back(*it);
  normal_.erase(it);
}

std::optional<ReadRequest> WaitingReads::Take() {
  std::deque<ReadRequest>& from = urgent_.empty() ? normal_ : urgent_;
  if (from.empty()) return std::nullopt;
  const ReadRequest request = from.front();
  from.pop_front();
  return request;
}

void ReadMeter::Begin() {
  const std::lock_guard lock(mutex_);
  if (in_flight_++ == 0) busy_since_ = Clock::now();
}

void ReadMeter::End(int64_t bytes, bool ok) {
  const std::lock_guard lock(mutex_);
  ++stats_.reads;
  stats_.bytes += bytes;
  if (!ok) ++stats_.errors;
  if (--in_flight_ == 0) stats_.busy_ns += NanosecondsSince(busy_since_);
}

ReadQueue::Stats ReadMeter::stats() const {
  const std::lock_guard lock(mutex_);
  ReadQueue::Stats stats = stats_;
  if (in_flight_ > 0) stats.busy_ns += NanosecondsSince(busy_since_);
  return stats;
}

void RunPromptly() {
  SchedulerAttributes attributes;
  if (::syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) != 0) return;
  if (attributes.policy != SCHED_OTHER) return;
  attributes.runtime = 100'000;  // nanoseconds: the shortest slice there is
  (void)::syscall(SYS_sched_setattr, 0, &attributes, 0);
}

absl::StatusOr<std::unique_ptr<ReadQueue>> ReadQueue::Open(std::vector<std::string> paths,
                                                           const ReadQueueOptions& options, Done done) {
  if (options.depth < 1 || options.depth > kMostDepth) {
    return absl::InvalidArgumentError(
        absl::StrCat("a read queue has 1 to ", kMostDepth, " reads in flight, not ", options.depth));
  }
  if (options.threads < 1 || options.threads > kMostThreads) {
    return absl::InvalidArgumentError(
        absl::StrCat("a read queue has 1 to ", kMostThreads, " threads, not ", options.threads));
  }
  absl::StatusOr<std::unique_ptr<ReadFiles>> files = ReadFiles::Open(std::move(paths));
  if (!files.ok()) return files.status();
  ReadQueueParts parts = {.files = *std::move(files), .done = std::move(done)};
  std::string note;
  if (options.method != ReadMethod::kPread) {
    absl::StatusOr<std::unique_ptr<ReadQueue>> queue = OpenUringQueue(options, &parts);
    if (queue.ok() || options.method == ReadMethod::kUring) return queue;
    if (absl::IsResourceExhausted(queue.status())) return queue;  // one thread was refused: pread needs more
    note = std::string(queue.status().message());
    LogWarning("uring_refused", "tiles are read with pread: {reason}", {{"reason", note}});
  }
  return OpenPreadQueue(options, note, &parts);
}

}  // namespace omni
