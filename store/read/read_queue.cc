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

// A disk that gave 1.9 GB/s in pieces of 160 kB gave 2.5 in pieces of 2.7 MB, and 2.2 in pieces of 640 kB.
constexpr int64_t kMostTogether = int64_t{3} << 19;

// Whether both can be read by one call. What makes no sense is left to itself.
bool Continues(const ReadRequest& a, const ReadRequest& b) {
  const auto sound = [](const ReadRequest& r) { return r.bytes > 0 && r.needed >= 0 && r.needed <= r.bytes; };
  return sound(a) && sound(b) && a.file == b.file && a.bytes + b.bytes <= kMostTogether && a.to != nullptr &&
         a.offset + static_cast<uint64_t>(a.bytes) == b.offset && a.to + a.bytes == b.to;
}

int64_t NanosecondsSince(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
}

}  // namespace

void WaitingReads::Add(std::span<const ReadRequest> requests, ReadUrgency urgency) {
  std::deque<ReadRequest>& to = waiting_[static_cast<size_t>(urgency)];
  to.insert(to.end(), requests.begin(), requests.end());
}

void WaitingReads::AddAlone(std::span<const ReadRequest> parts) {
  alone_.insert(alone_.end(), parts.begin(), parts.end());
}

void WaitingReads::Promote(uint64_t tag) {
  for (const ReadUrgency urgency : {ReadUrgency::kKnown, ReadUrgency::kGuessed}) {
    std::deque<ReadRequest>& from = waiting_[static_cast<size_t>(urgency)];
    const auto it = std::find_if(from.begin(), from.end(),
                                 [tag](const ReadRequest& request) { return request.tag == tag; });
    if (it == from.end()) continue;
    waiting_[static_cast<size_t>(ReadUrgency::kAsked)].push_back(*it);
    from.erase(it);
    return;
  }
}

bool WaitingReads::empty() const {
  return alone_.empty() &&
         std::all_of(waiting_.begin(), waiting_.end(), [](const auto& reads) { return reads.empty(); });
}

std::optional<TakenRead> WaitingReads::Take() {
  if (!alone_.empty()) {
    TakenRead taken{alone_.front(), {}};
    alone_.pop_front();
    return taken;
  }
  const auto from =
      std::find_if(waiting_.begin(), waiting_.end(), [](const auto& reads) { return !reads.empty(); });
  if (from == waiting_.end()) return std::nullopt;
  TakenRead taken{from->front(), {}};
  from->pop_front();
  const ReadRequest first = taken.request;
  while (!from->empty() && first.bytes == from->front().bytes && Continues(taken.request, from->front())) {
    const ReadRequest& next = from->front();
    if (taken.parts.empty()) taken.parts.push_back(first);
    taken.parts.push_back(next);
    taken.request.needed = taken.request.bytes + next.needed;
    taken.request.bytes += next.bytes;
    from->pop_front();
  }
  return taken;
}

void ReadMeter::Begin() {
  const std::lock_guard lock(mutex_);
  if (in_flight_++ == 0) busy_since_ = Clock::now();
}

void ReadMeter::End(int64_t bytes, size_t requests, bool ok) {
  const std::lock_guard lock(mutex_);
  stats_.reads += static_cast<int64_t>(requests);
  ++stats_.begun;
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
