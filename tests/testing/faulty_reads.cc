#include "tests/testing/faulty_reads.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "store/read/read_files.h"

namespace omni::testing {
namespace {

constexpr int kGarbage = 0xdb;

class FaultyReads final : public ReadQueue {
 public:
  FaultyReads(std::vector<std::string> paths, FaultRule rule, Done done)
      : paths_(std::move(paths)), rule_(std::move(rule)), done_(std::move(done)) {}
  ~FaultyReads() override { inner_.reset(); }  // calls Finish, so before everything else

  absl::Status Open(const ReadQueueOptions& options) {
    absl::StatusOr<std::unique_ptr<ReadQueue>> inner = ReadQueue::Open(
        paths_, options, [this](uint64_t id, const absl::Status& status) { Finish(id, status); });
    if (!inner.ok()) return inner.status();
    inner_ = *std::move(inner);
    return absl::OkStatus();
  }

  void Submit(std::span<const ReadRequest> requests, ReadUrgency urgency) override {
    std::vector<ReadRequest> inner(requests.begin(), requests.end());
    for (ReadRequest& request : inner) {
      const Fault fault = rule_(request);
      const std::lock_guard lock(mutex_);
      reads_[next_id_] = {request, fault};
      request.tag = next_id_++;
    }
    inner_->Submit(inner, urgency);
  }
  void Promote(uint64_t tag) override {
    std::vector<uint64_t> ids;
    {
      const std::lock_guard lock(mutex_);
      for (const auto& [id, read] : reads_) {
        if (read.request.tag == tag) ids.push_back(id);
      }
    }
    for (const uint64_t id : ids) inner_->Promote(id);
  }
  ReadMethod method() const override { return inner_->method(); }
  bool direct(int32_t file) const override { return inner_->direct(file); }
  std::string description() const override { return inner_->description() + ", with faults"; }
  Stats stats() const override { return inner_->stats(); }

 private:
  struct Read {
    ReadRequest request;
    Fault fault;
  };

  void Finish(uint64_t id, const absl::Status& status) {
    Read read;
    {
      const std::lock_guard lock(mutex_);
      const auto it = reads_.find(id);
      read = it->second;
      reads_.erase(it);
    }
    done_(read.request.tag, status.ok() ? Spoil(read) : status);
  }

  absl::Status Spoil(const Read& read) const {
    const ReadRequest& request = read.request;
    const std::string& path = paths_[static_cast<size_t>(request.file)];
    switch (read.fault.kind) {
      case Fault::Kind::kNone:
        return absl::OkStatus();
      case Fault::Kind::kFlipBit:
        request.to[read.fault.at / 8] ^= static_cast<uint8_t>(1u << (read.fault.at % 8));
        return absl::OkStatus();
      case Fault::Kind::kShorten: {
        const int64_t got = std::min(read.fault.at, request.bytes);
        std::memset(request.to + got, kGarbage, static_cast<size_t>(request.bytes - got));
        return got < request.needed ? ShortReadError(path, request, got) : absl::OkStatus();
      }
      case Fault::Kind::kFail:
        std::memset(request.to, kGarbage, static_cast<size_t>(request.bytes));
        return ReadError(path, request, EIO);
    }
    return absl::OkStatus();
  }

  const std::vector<std::string> paths_;
  const FaultRule rule_;
  const Done done_;
  std::mutex mutex_;  // guards reads_, next_id_
  std::map<uint64_t, Read> reads_;
  uint64_t next_id_ = 0;
  std::unique_ptr<ReadQueue> inner_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ReadQueue>> OpenFaultyReads(std::vector<std::string> paths,
                                                           const ReadQueueOptions& options, FaultRule rule,
                                                           ReadQueue::Done done) {
  auto queue = std::make_unique<FaultyReads>(std::move(paths), std::move(rule), std::move(done));
  if (absl::Status s = queue->Open(options); !s.ok()) return s;
  return queue;
}

}  // namespace omni::testing
