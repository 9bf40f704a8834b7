// Which reads begin first, which are made one, and what becomes of those that wait.
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/store/read/read_queue_fixture.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Pages;
using testing::RandomBytes;
using testing::ReadQueueTest;
using testing::Reports;
using testing::StoppedQueue;
using testing::WriteBytes;

TEST_P(ReadQueueTest, WhatIsAskedForBeginsBeforeWhatIsKnownAndThatBeforeGuesses) {
  WriteBytes(temp_ / "f", RandomBytes(65536, 1));
  Pages memory(65536);
  Reports reports;
  StoppedQueue queue(temp_ / "f", Options(), reports.done());
  const auto submit = [&](const std::vector<uint64_t>& tags, ReadUrgency urgency) {
    std::vector<ReadRequest> requests;
    for (const uint64_t tag : tags) {
      requests.push_back({.bytes = 4096, .needed = 4096, .to = memory.data() + 4096 * tag, .tag = tag});
    }
    queue->Submit(requests, urgency);
  };
  submit({0}, ReadUrgency::kGuessed);
  queue.WaitUntilItStops();
  submit({1, 2, 3}, ReadUrgency::kGuessed);
  submit({7, 8, 9}, ReadUrgency::kKnown);
  submit({4, 5}, ReadUrgency::kAsked);
  queue->Promote(3);
  queue->Promote(8);
  queue->Promote(5);   // asked for already
  queue->Promote(99);  // unknown
  submit({6}, ReadUrgency::kAsked);
  queue.GoOn();
  reports.WaitFor(10);
  EXPECT_THAT(reports.tags(), ElementsAre(0, 4, 5, 3, 8, 6, 7, 9, 1, 2));
}

// Side by side in file, memory and order are tags 1 to 20; 21 follows in the file and not in memory; 22 and
// 23 are of another size.
TEST_P(ReadQueueTest, RequestsSideBySideAreReadInOneGo) {
  constexpr int64_t kPiece = 128 << 10;
  const std::string bytes = RandomBytes(26 * kPiece, 5);
  WriteBytes(temp_ / "f", bytes);
  Pages memory(26 * kPiece);
  Reports reports;
  StoppedQueue queue(temp_ / "f", Options(), reports.done());
  std::vector<ReadRequest> requests;
  for (uint64_t tag = 1; tag <= 23; ++tag) {
    const int64_t size = tag < 22 ? kPiece : kPiece / 2;
    requests.push_back({.offset = tag * kPiece,
                        .bytes = size,
                        .needed = size,
                        .to = memory.data() + static_cast<int64_t>(tag + (tag == 21 ? 3 : 0)) * kPiece,
                        .tag = tag});
  }
  const ReadRequest first = {.bytes = kPiece, .needed = kPiece, .to = memory.data(), .tag = 0};
  queue->Submit({&first, 1}, ReadUrgency::kAsked);
  queue.WaitUntilItStops();
  queue->Submit(requests, ReadUrgency::kKnown);
  queue.GoOn();
  reports.WaitFor(24);
  for (const ReadRequest& request : requests) {
    EXPECT_EQ(std::memcmp(request.to, bytes.data() + request.offset, static_cast<size_t>(request.bytes)), 0)
        << request.tag;
  }
  const ReadQueue::Stats stats = queue->stats();
  EXPECT_EQ(stats.reads, 24);
  EXPECT_EQ(stats.begun, 1 + 2 + 3);  // 12 and 8 pieces; 21, 22, 23
  EXPECT_EQ(stats.errors, 0);
}

TEST_P(ReadQueueTest, AnErrorOfOneOfThoseReadTogetherIsItsOwn) {
  WriteBytes(temp_ / "f", RandomBytes(8 * 4096, 5));
  Pages memory(8 * 4096);
  Reports reports;
  StoppedQueue queue(temp_ / "f", Options(), reports.done());
  const auto request = [&](uint64_t tag) {
    return ReadRequest{
        .offset = tag * 4096, .bytes = 4096, .needed = 4096, .to = memory.data() + tag * 4096, .tag = tag};
  };
  const ReadRequest first = request(0);
  queue->Submit({&first, 1}, ReadUrgency::kAsked);
  queue.WaitUntilItStops();
  fs::resize_file(temp_ / "f", 4 * 4096 + 7);
  std::vector<ReadRequest> requests;
  for (uint64_t tag = 1; tag < 6; ++tag) requests.push_back(request(tag));
  queue->Submit(requests, ReadUrgency::kAsked);
  queue.GoOn();
  reports.WaitFor(6);
  EXPECT_THAT(reports.tags(), ElementsAre(0, 1, 2, 3, 4, 5));
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(reports.status(i).ok()) << reports.status(i);
  EXPECT_THAT(reports.message(4), HasSubstr("read 7 bytes of 4096 at 16384"));
  EXPECT_THAT(reports.message(5), HasSubstr("read 0 bytes of 4096 at 20480"));
  EXPECT_EQ(queue->stats().errors, 2);
}

TEST_P(ReadQueueTest, ClosingReportsEveryReadOnce) {
  constexpr uint64_t kReads = 20000, kBytes = 65536;
  const std::string bytes = RandomBytes(kBytes, 3);
  WriteBytes(temp_ / "f", bytes);
  Pages memory(kBytes);
  Reports reports;
  StoppedQueue queue(temp_ / "f", Options(), reports.done());
  std::vector<ReadRequest> requests;
  for (uint64_t tag = 0; tag < kReads; ++tag) {
    requests.push_back({.bytes = kBytes, .needed = kBytes, .to = memory.data(), .tag = tag});
  }
  queue->Submit({requests.data(), 1}, ReadUrgency::kGuessed);
  queue.WaitUntilItStops();
  queue->Submit({requests.data() + 1, kReads - 1}, ReadUrgency::kGuessed);
  queue.GoOn();
  queue.Close();

  const std::vector<uint64_t> tags = reports.tags();
  ASSERT_EQ(tags.size(), kReads);
  // One may have begun before the queue was closed, and ends when it does.
  std::vector<bool> seen(kReads);
  uint64_t read = 0;
  for (size_t i = 0; i < kReads; ++i) {
    ASSERT_FALSE(seen.at(tags[i])) << tags[i];
    seen[tags[i]] = true;
    if (reports.status(i).ok()) {
      ++read;
      continue;
    }
    ASSERT_EQ(reports.status(i).code(), absl::StatusCode::kCancelled);
    ASSERT_THAT(reports.message(i), HasSubstr("/f: did not read 65536 bytes at 0"));
  }
  EXPECT_LT(read, kReads);  // more would be a gigabyte
  EXPECT_EQ(std::memcmp(memory.data(), bytes.data(), kBytes), 0);
}

}  // namespace
}  // namespace omni
