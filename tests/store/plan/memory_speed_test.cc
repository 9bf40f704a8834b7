#include "store/plan/memory_speed.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/thread_limit.h"

namespace omni {
namespace {

constexpr int64_t kMuch = INT64_MAX;  // of free memory

TEST(MemorySpeedTest, EveryThreadWorksOnce) {
  std::vector<std::atomic<int>> calls(4);
  ASSERT_TRUE(TimeThreads(4, [&](int t) { ++calls[static_cast<size_t>(t)]; }).ok());
  for (const std::atomic<int>& n : calls) EXPECT_EQ(n.load(), 1);
}

// The time is that of the slowest: here of the thread that works until a moment after the others have ended.
TEST(MemorySpeedTest, TheTimeLastsUntilTheLastThreadReturns) {
  std::atomic<int> ended{0};
  const auto least = std::chrono::milliseconds(2);
  const absl::StatusOr<double> seconds = TimeThreads(3, [&](int t) {
    if (t != 1) {
      ++ended;
      return;
    }
    while (ended < 2) std::this_thread::yield();
    const auto begin = std::chrono::steady_clock::now();
    while (std::chrono::steady_clock::now() - begin < least) std::this_thread::yield();
  });
  ASSERT_TRUE(seconds.ok()) << seconds.status();
  EXPECT_GE(*seconds, std::chrono::duration<double>(least).count());
}

TEST(MemorySpeedTest, WithoutThreadsNothingIsDone) {
  const auto report = testing::WithThreadLimit(2, [] {
    std::atomic<int> calls{0};
    const absl::Status status = TimeThreads(4, [&](int) { ++calls; }).status();
    return std::to_string(calls) + " calls, " + std::string(status.message());
  });
  if (!report) GTEST_SKIP() << "only root can become a user with a limit of its own";
  EXPECT_THAT(*report, ::testing::StartsWith("0 calls, cannot start 4 threads to measure: "));
}

TEST(MemorySpeedTest, WhereLittleIsFreeItCannotBeMeasured) {
  const absl::Status status = MeasureMemorySpeed(1, int64_t{500} << 20).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(status.message(), "cannot be measured: that takes 256 MiB of memory, and only 500 are free");
}

TEST(MemorySpeedTest, ASpeedIsPositiveAndPossible) {
  const absl::StatusOr<MemorySpeed> speed = MeasureMemorySpeed(2, kMuch);
  if (absl::IsResourceExhausted(speed.status())) GTEST_SKIP() << speed.status();
  ASSERT_TRUE(speed.ok()) << speed.status();
  EXPECT_EQ(speed->threads, 2);
  EXPECT_GE(speed->buffer_bytes, int64_t{256} << 20);
  EXPECT_GT(speed->bytes_per_s, 1e7);
  EXPECT_LT(speed->bytes_per_s, 1e13);
}

TEST(MemorySpeedTest, AnOddNumberOfThreadsIsMadeUsable) {
  const absl::StatusOr<MemorySpeed> speed = MeasureMemorySpeed(0, kMuch);
  if (absl::IsResourceExhausted(speed.status())) GTEST_SKIP() << speed.status();
  ASSERT_TRUE(speed.ok()) << speed.status();
  EXPECT_EQ(speed->threads, 1);
}

}  // namespace
}  // namespace omni
