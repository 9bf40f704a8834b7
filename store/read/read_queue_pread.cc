// A read queue of threads that each wait in pread: for systems without io_uring.
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "engine/base/threads.h"
#include "store/read/read_queue_parts.h"

namespace omni {
namespace {

class PreadQueue final : public ReadQueue {
 public:
  PreadQueue(std::string note, ReadQueueParts parts) : note_(std::move(note)), parts_(std::move(parts)) {}
  ~PreadQueue() override;
  absl::Status Start(int threads);

  void Submit(std::span<const ReadRequest> requests, ReadUrgency urgency) override;
  void Promote(uint64_t tag) override;
  ReadMethod method() const override { return ReadMethod::kPread; }
  bool direct(int32_t file) const override { return parts_.files->direct(file); }
  std::string description() const override;
  Stats stats() const override { return meter_.stats(); }

 private:
  void Run();
  void Serve(const ReadRequest& request, bool closing);
  absl::Status Read(const ReadRequest& request, size_t requests);

  const std::string note_;
  const ReadQueueParts parts_;
  ReadMeter meter_;
  std::mutex mutex_;
  std::condition_variable changed_;  // guarded by mutex_: waiting_, closing_
  WaitingReads waiting_;
  bool closing_ = false;
  std::vector<std::thread> threads_;
};

absl::Status PreadQueue::Start(int threads) {
  try {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
  } catch (const std::system_error& error) {
    return ThreadsRefused(threads, "read experts", error.code().value());
  }
  return absl::OkStatus();
}

PreadQueue::~PreadQueue() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void PreadQueue::Submit(std::span<const ReadRequest> requests, ReadUrgency urgency) {
  {
    const std::lock_guard lock(mutex_);
    waiting_.Add(requests, urgency);
  }
  if (requests.size() == 1) {
    changed_.notify_one();
  } else {
    changed_.notify_all();
  }
}

void PreadQueue::Promote(uint64_t tag) {
  const std::lock_guard lock(mutex_);
  waiting_.Promote(tag);
}

std::string PreadQueue::description() const {
  return absl::StrCat(threads_.size(), " threads of pread, ", parts_.files->Describe(),
                      note_.empty() ? "" : "; ", note_);
}

void PreadQueue::Run() {
  RunPromptly();
  while (true) {
    std::optional<TakenRead> taken;
    bool closing = false;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return closing_ || !waiting_.empty(); });
      taken = waiting_.Take();
      closing = closing_;
    }
    if (!taken) return;
    if (taken->parts.empty()) {
      Serve(taken->request, closing);
      continue;
    }
    const bool read = !closing && parts_.files->Check(taken->request).ok() &&
                      Read(taken->request, taken->parts.size()).ok();
    for (const ReadRequest& part : taken->parts) {
      if (read) {
        parts_.done(part.tag, absl::OkStatus());
      } else {
        Serve(part, closing);
      }
    }
  }
}

void PreadQueue::Serve(const ReadRequest& request, bool closing) {
  absl::Status status = parts_.files->Check(request);
  if (status.ok())
    status = closing ? CancelledReadError(parts_.files->path(request.file), request) : Read(request, 1);
  parts_.done(request.tag, status);
}

// For so many requests: if there are several, an error is none yet.
absl::Status PreadQueue::Read(const ReadRequest& request, size_t requests) {
  meter_.Begin();
  ReadProgress read(request, parts_.files.get());
  ssize_t n = 0;
  do {
    const ReadProgress::Step step = read.Next();
    n = ::pread(parts_.files->fd(request.file, step.direct), step.to, step.bytes,
                static_cast<off_t>(step.offset));
    if (n < 0) n = -errno;
  } while (!read.Take(n));
  const bool ok = read.status().ok(), again = !ok && requests > 1;
  meter_.End(read.got(), again ? 0 : requests, ok || again);
  return read.status();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ReadQueue>> OpenPreadQueue(const ReadQueueOptions& options,
                                                          const std::string& note, ReadQueueParts* parts) {
  auto queue = std::make_unique<PreadQueue>(note, std::move(*parts));
  if (absl::Status s = queue->Start(options.threads); !s.ok()) return s;
  return queue;
}

}  // namespace omni
