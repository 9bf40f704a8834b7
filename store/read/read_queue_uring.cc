// A read queue over io_uring. One thread owns the ring: it begins reads, waits for them and calls `done`; an
// eventfd whose read is itself in the ring wakes it for new work.
#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "engine/base/log.h"
#include "engine/base/threads.h"
#include "store/read/read_queue_parts.h"

namespace omni {
namespace {

constexpr int64_t kLargestBuffer = int64_t{1} << 30;  // that the kernel registers as one
constexpr int64_t kBytesOfWeight = int64_t{128} << 10;
constexpr uint64_t kWake = UINT64_MAX;  // user data of the eventfd's read; others are slots
// Calls of `done` between two looks at the ring: at 20 us each (the check sum of a tile) less than the disk
// takes for one read.
constexpr size_t kReportsPerTurn = 8;

const char* Cure(int error) {
  switch (error) {
    case ENOSYS:
      return "use a kernel with io_uring (5.6 or newer) or read with pread";
    case EPERM:
    case EACCES:
      return "allow it (sysctl kernel.io_uring_disabled=0, and io_uring_setup in the container's seccomp "
             "profile) or read with pread";
    case ENOMEM:
      return "raise the limit of locked memory (ulimit -l) or read with pread";
    case EMFILE:
    case ENFILE:
      return "raise the limit of open files (ulimit -n) or read with pread";
    default:
      return "read with pread";
  }
}

absl::Status NotAvailable(int error) {
  return absl::UnavailableError(
      absl::StrCat("io_uring is not available: ", std::strerror(error), "; ", Cure(error)));
}

class UringQueue final : public ReadQueue {
 public:
  UringQueue() = default;
  ~UringQueue() override;
  // Before anything else. On an error nothing but the destructor may follow, and `parts` is as it was.
  absl::Status Start(const ReadQueueOptions& options, ReadQueueParts* parts);

  void Submit(std::span<const ReadRequest> requests, ReadUrgency urgency) override;
  void Promote(uint64_t tag) override;
  void ForgetMemory() override;
  ReadMethod method() const override { return ReadMethod::kUring; }
  bool direct(int32_t file) const override { return parts_.files->direct(file); }
  std::string description() const override;
  Stats stats() const override { return meter_.stats(); }

 private:
  struct Report {
    uint64_t tag;
    absl::Status status;
  };
  struct InFlight {
    ReadProgress progress;
    std::vector<ReadRequest> parts;  // if there are several
    int64_t weight;                  // of the depth
  };

  absl::Status StartRing(int depth);
  void RegisterFiles(const ReadFiles& files);
  void RegisterMemory(std::span<uint8_t> memory);
  void Wake();

  // Of the ring's thread.
  void Run();
  bool BeginWaiting();  // false: closing, and nothing waits
  void Unregister();
  void PrepareWake();
  void PrepareRead(size_t slot);
  void Enter(bool wait);
  void Reap();
  void EndRead(size_t slot);
  void CallDone();

  ReadQueueParts parts_;
  ReadMeter meter_;
  bool has_ring_ = false, registered_files_ = false;
  std::atomic<bool> registered_memory_{false};  // changed by the ring's thread once it runs
  std::span<uint8_t> memory_;  // registered in pieces of kLargestBuffer, if registered_memory_
  std::string memory_note_;
  int wake_fd_ = -1;

  std::mutex mutex_;  // guards waiting_, closing_, forget_memory_, woken_
  WaitingReads waiting_;
  bool closing_ = false;
  bool forget_memory_ = false;         // wanted; nothing is begun until it has been done
  std::condition_variable forgotten_;  // of forget_memory_
  bool woken_ = false;                 // the ring's thread will look at waiting_ before it sleeps

  // Of the ring's thread.
  io_uring ring_;
  uint64_t wake_count_ = 0;  // where the eventfd is read to
  std::vector<std::optional<InFlight>> slots_;
  int64_t weight_ = 0;  // in flight
  std::vector<size_t> free_slots_;
  std::deque<Report> reports_;  // that `done` has not been called for

  std::thread thread_;
};

absl::Status UringQueue::StartRing(int depth) {
  wake_fd_ = ::eventfd(0, EFD_CLOEXEC);
  if (wake_fd_ < 0) return NotAvailable(errno);
  // Each slot and the eventfd have at most one entry, so neither queue of the ring ever overflows.
  const int error = ::io_uring_queue_init(static_cast<unsigned>(depth) + 1, &ring_, 0);
  if (error != 0) return NotAvailable(-error);
  has_ring_ = true;
  io_uring_probe* probe = ::io_uring_get_probe_ring(&ring_);
  const bool reads = probe != nullptr && ::io_uring_opcode_supported(probe, IORING_OP_READ) != 0 &&
                     ::io_uring_opcode_supported(probe, IORING_OP_READ_FIXED) != 0;
  if (probe != nullptr) ::io_uring_free_probe(probe);
  if (!reads) return NotAvailable(ENOSYS);
  // A sandbox may allow the ring to be made and then refuse to enter it.
  ::io_uring_prep_nop(::io_uring_get_sqe(&ring_));
  const int entered = ::io_uring_submit_and_wait(&ring_, 1);
  if (entered < 0) return NotAvailable(-entered);
  ::io_uring_cq_advance(&ring_, 1);
  return absl::OkStatus();
}

absl::Status UringQueue::Start(const ReadQueueOptions& options, ReadQueueParts* parts) {
  if (absl::Status s = StartRing(options.depth); !s.ok()) return s;
  RegisterFiles(*parts->files);
  RegisterMemory(options.memory);
  slots_.resize(static_cast<size_t>(options.depth));
  for (size_t slot = slots_.size(); slot-- > 0;) free_slots_.push_back(slot);
  parts_ = std::move(*parts);
  try {
    thread_ = std::thread([this] { Run(); });
  } catch (const std::system_error& error) {
    *parts = std::move(parts_);
    return ThreadsRefused(1, "serve io_uring", error.code().value());
  }
  return absl::OkStatus();
}

// Both descriptors of each file: 2 * file for the page cache, 2 * file + 1 for O_DIRECT.
void UringQueue::RegisterFiles(const ReadFiles& files) {
  std::vector<int> fds;
  for (int32_t file = 0; file < files.size(); ++file) {
    fds.push_back(files.fd(file, false));
    fds.push_back(files.fd(file, true));  // -1 is taken, as an empty place
  }
  if (fds.empty()) return;
  registered_files_ = ::io_uring_register_files(&ring_, fds.data(), static_cast<unsigned>(fds.size())) == 0;
}

void UringQueue::RegisterMemory(std::span<uint8_t> memory) {
  if (memory.empty()) return;
  memory_ = memory;
  std::vector<iovec> pieces;
  for (size_t at = 0; at < memory.size(); at += kLargestBuffer) {
    pieces.push_back({memory.data() + at, std::min<size_t>(kLargestBuffer, memory.size() - at)});
  }
  const int error = ::io_uring_register_buffers(&ring_, pieces.data(), static_cast<unsigned>(pieces.size()));
  registered_memory_ = error == 0;
  if (registered_memory_) {
    memory_note_ = ", buffers no longer registered (their memory has changed)";
    return;
  }
  const std::string reason = absl::StrCat(
      std::strerror(-error), error == -ENOMEM ? "; raise the limit of locked memory, ulimit -l" : "");
  memory_note_ = absl::StrCat(", buffers not registered (", reason, ")");
  LogInfo("buffers_not_registered", "io_uring reads into memory that is not pinned: {reason}",
          {{"reason", reason}, {"bytes", memory.size()}});
}

UringQueue::~UringQueue() {
  if (thread_.joinable()) {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
    }
    Wake();
    thread_.join();
  }
  // Closing the ring would unpin the memory some time later; its limit must be free for the next queue.
  if (registered_memory_) (void)::io_uring_unregister_buffers(&ring_);
  if (has_ring_) ::io_uring_queue_exit(&ring_);
  if (wake_fd_ >= 0) ::close(wake_fd_);
}

void UringQueue::Wake() {
  const uint64_t one = 1;
  (void)!::write(wake_fd_, &one, sizeof(one));  // fails only where 2^64 - 2 wakes have not been read
}

void UringQueue::Submit(std::span<const ReadRequest> requests, ReadUrgency urgency) {
  {
    const std::lock_guard lock(mutex_);
    waiting_.Add(requests, urgency);
    if (std::exchange(woken_, true)) return;
  }
  Wake();
}

void UringQueue::ForgetMemory() {
  std::unique_lock lock(mutex_);
  if (!registered_memory_) return;
  forget_memory_ = true;
  if (!std::exchange(woken_, true)) Wake();
  forgotten_.wait(lock, [this] { return !forget_memory_; });
}

// On the ring's thread, with the mutex and nothing in flight.
void UringQueue::Unregister() {
  (void)::io_uring_unregister_buffers(&ring_);
  registered_memory_ = false;
  forget_memory_ = false;
  forgotten_.notify_all();
}

void UringQueue::Promote(uint64_t tag) {
  const std::lock_guard lock(mutex_);
  waiting_.Promote(tag);
}

std::string UringQueue::description() const {
  return absl::StrCat("io_uring, ", parts_.files->Describe(),
                      registered_memory_ ? ", registered buffers" : memory_note_);
}

void UringQueue::Run() {
  RunPromptly();
  PrepareWake();  // here and not before: what a thread gave to the ring ends with the thread
  while (true) {
    // New reads are with the disk before `done` is called for old ones.
    const bool more = BeginWaiting();
    if (!more && free_slots_.size() == slots_.size() && reports_.empty()) return;
    Enter(/*wait=*/reports_.empty());
    CallDone();
    Reap();
  }
}

bool UringQueue::BeginWaiting() {
  const std::lock_guard lock(mutex_);
  woken_ = false;
  if (forget_memory_) {
    if (free_slots_.size() < slots_.size()) return true;
    Unregister();
  }
  while (closing_ || (!free_slots_.empty() && weight_ < static_cast<int64_t>(slots_.size()))) {
    std::optional<TakenRead> taken = waiting_.Take();
    if (!taken) return !closing_;
    const ReadRequest& request = taken->request;
    absl::Status status = parts_.files->Check(request);
    if (status.ok() && closing_) status = CancelledReadError(parts_.files->path(request.file), request);
    if (!status.ok() && !taken->parts.empty()) {
      waiting_.AddAlone(taken->parts);
      continue;
    }
    if (!status.ok()) {
      reports_.push_back({request.tag, std::move(status)});
      continue;
    }
    const size_t slot = free_slots_.back();
    free_slots_.pop_back();
    const auto requests = static_cast<int64_t>(taken->requests());
    const int64_t weight = std::clamp<int64_t>(request.bytes / kBytesOfWeight, 1, requests);
    weight_ += weight;
    slots_[slot].emplace(ReadProgress(request, parts_.files.get()), std::move(taken->parts), weight);
    meter_.Begin();
    PrepareRead(slot);
  }
  return true;
}

void UringQueue::PrepareWake() {
  io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);
  ::io_uring_prep_read(sqe, wake_fd_, &wake_count_, sizeof(wake_count_), 0);
  ::io_uring_sqe_set_data64(sqe, kWake);
}

void UringQueue::PrepareRead(size_t slot) {
  ReadProgress& read = slots_[slot]->progress;
  const ReadProgress::Step step = read.Next();
  const int32_t file = read.request().file;
  const int fd = registered_files_ ? 2 * file + (step.direct ? 1 : 0) : parts_.files->fd(file, step.direct);
  io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);

  // Registered if it lies within one piece.
  const uintptr_t begin = reinterpret_cast<uintptr_t>(step.to) - reinterpret_cast<uintptr_t>(memory_.data());
  const uintptr_t last = begin + step.bytes - 1;
  if (registered_memory_ && begin < memory_.size() && last < memory_.size() &&
      begin / kLargestBuffer == last / kLargestBuffer) {
    ::io_uring_prep_read_fixed(sqe, fd, step.to, step.bytes, step.offset,
                               static_cast<int>(begin / kLargestBuffer));
  } else {
    ::io_uring_prep_read(sqe, fd, step.to, step.bytes, step.offset);
  }
  if (registered_files_) ::io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
  ::io_uring_sqe_set_data64(sqe, slot);
}

void UringQueue::Enter(bool wait) {
  const int n = wait ? ::io_uring_submit_and_wait(&ring_, 1) : ::io_uring_submit(&ring_);
  if (n >= 0 || n == -EINTR) return;
  // The kernel lacks memory at the moment. The entries stay in the ring, and the next turn tries again.
  pollfd ready = {.fd = ring_.ring_fd, .events = POLLIN, .revents = 0};
  (void)::poll(&ready, 1, 1);
}

void UringQueue::Reap() {
  unsigned head = 0, seen = 0;
  io_uring_cqe* cqe = nullptr;
  io_uring_for_each_cqe(&ring_, head, cqe) {
    ++seen;
    const uint64_t slot = cqe->user_data;
    if (slot == kWake) {
      PrepareWake();
      continue;
    }
    if (slots_[slot]->progress.Take(cqe->res)) {
      EndRead(slot);
    } else {
      PrepareRead(slot);
    }
  }
  ::io_uring_cq_advance(&ring_, seen);
}

void UringQueue::EndRead(size_t slot) {
  const InFlight& ended = *slots_[slot];
  const ReadProgress& read = ended.progress;
  const bool ok = read.status().ok(), again = !ok && !ended.parts.empty();
  meter_.End(read.got(), again ? 0 : std::max<size_t>(1, ended.parts.size()), ok || again);
  if (again) {
    const std::lock_guard lock(mutex_);
    waiting_.AddAlone(ended.parts);
  } else if (ended.parts.empty()) {
    reports_.push_back({read.request().tag, read.status()});
  } else {
    for (const ReadRequest& part : ended.parts) reports_.push_back({part.tag, absl::OkStatus()});
  }
  weight_ -= ended.weight;
  slots_[slot].reset();
  free_slots_.push_back(slot);
}

void UringQueue::CallDone() {
  for (size_t i = 0; i < kReportsPerTurn && !reports_.empty(); ++i) {
    const Report report = std::move(reports_.front());
    reports_.pop_front();
    parts_.done(report.tag, report.status);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<ReadQueue>> OpenUringQueue(const ReadQueueOptions& options,
                                                          ReadQueueParts* parts) {
  auto queue = std::make_unique<UringQueue>();
  if (absl::Status s = queue->Start(options, parts); !s.ok()) return s;
  return queue;
}

}  // namespace omni
