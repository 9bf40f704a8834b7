// Queues of reads over small files, and what they report.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <cstring>
#include <latch>
#include <memory>
#include <mutex>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "store/file/files.h"
#include "store/read/read_queue.h"
#include "tests/testing/file_bytes.h"
#include "tests/testing/temp_dir.h"

namespace omni::testing {

inline std::string RandomBytes(size_t bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

// Page-aligned memory of zeros.
class Pages {
 public:
  explicit Pages(int64_t bytes) : buffer_(*AlignedBuffer::Allocate(bytes + kReadBlock)), bytes_(bytes) {
    std::memset(buffer_.data(), 0, static_cast<size_t>(buffer_.size()));
  }
  uint8_t* data() {
    const auto address = reinterpret_cast<uintptr_t>(buffer_.data());
    return buffer_.data() + (kReadBlock - address % kReadBlock) % kReadBlock;
  }
  std::span<uint8_t> span() { return {data(), static_cast<size_t>(bytes_)}; }

 private:
  AlignedBuffer buffer_;
  int64_t bytes_;
};

// What a queue has reported, in order.
class Reports {
 public:
  ReadQueue::Done done() {
    return [this](uint64_t tag, const absl::Status& status) {
      const std::lock_guard lock(mutex_);
      tags_.push_back(tag);
      statuses_.push_back(status);
      changed_.notify_all();
    };
  }
  void WaitFor(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return tags_.size() >= count; });
  }
  std::vector<uint64_t> tags() {
    const std::lock_guard lock(mutex_);
    return tags_;
  }
  absl::Status status(size_t i) {
    const std::lock_guard lock(mutex_);
    return statuses_.at(i);
  }
  std::string message(size_t i) { return std::string(status(i).message()); }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<uint64_t> tags_;
  std::vector<absl::Status> statuses_;
};

// A queue that has one read under way at a time, and after its first, of tag 0, stops in `done` until GoOn.
class StoppedQueue {
 public:
  StoppedQueue(const std::string& path, ReadQueueOptions options, ReadQueue::Done record) {
    options.depth = options.threads = 1;
    auto opened = ReadQueue::Open(
        {path}, options, [this, record = std::move(record)](uint64_t tag, const absl::Status& status) {
          if (tag == 0) {
            first_done_.count_down();
            go_on_.wait();
          }
          record(tag, status);
        });
    EXPECT_TRUE(opened.ok()) << opened.status();
    if (opened.ok()) queue_ = *std::move(opened);
  }
  ReadQueue* operator->() { return queue_.get(); }
  void WaitUntilItStops() { first_done_.wait(); }
  void GoOn() { go_on_.count_down(); }
  void Close() { queue_.reset(); }

 private:
  std::latch first_done_{1}, go_on_{1};
  std::unique_ptr<ReadQueue> queue_;  // last: its threads use the latches
};

class ReadQueueTest : public ::testing::TestWithParam<ReadMethod> {
 protected:
  void SetUp() override {
    WriteBytes(temp_ / "probe", "x");
    const absl::StatusOr<std::unique_ptr<ReadQueue>> queue =
        ReadQueue::Open({temp_ / "probe"}, Options(), [](uint64_t, const absl::Status&) {});
    if (absl::IsUnavailable(queue.status())) GTEST_SKIP() << queue.status();
    ASSERT_TRUE(queue.ok()) << queue.status();
    EXPECT_EQ((*queue)->method(), GetParam());
  }
  ReadQueueOptions Options() const { return {.method = GetParam(), .depth = 16, .threads = 4, .memory = {}}; }
  // One read, all alone; its status.
  absl::Status ReadOne(const std::string& path, const ReadRequest& request) {
    Reports reports;
    absl::StatusOr<std::unique_ptr<ReadQueue>> queue = ReadQueue::Open({path}, Options(), reports.done());
    if (!queue.ok()) return queue.status();
    (*queue)->Submit({&request, 1}, ReadUrgency::kGuessed);
    reports.WaitFor(1);
    return reports.status(0);
  }

  TempDir temp_;
};

}  // namespace omni::testing
