#include "store/plan/memory_speed.h"

#include <atomic>
#include <vector>

#include <gtest/gtest.h>

namespace omni {
namespace {

TEST(MemorySpeedTest, EveryThreadWorksOnce) {
  std::vector<std::atomic<int>> calls(4);
  const double seconds = TimeThreads(4, [&](int t) { ++calls[static_cast<size_t>(t)]; });
  EXPECT_GE(seconds, 0);
  for (const std::atomic<int>& n : calls) EXPECT_EQ(n.load(), 1);
}

TEST(MemorySpeedTest, ASpeedIsPositiveAndPossible) {
  const absl::StatusOr<MemorySpeed> speed = MeasureMemorySpeed(2);
  if (absl::IsResourceExhausted(speed.status())) GTEST_SKIP() << speed.status();
  ASSERT_TRUE(speed.ok()) << speed.status();
  EXPECT_EQ(speed->threads, 2);
  EXPECT_GE(speed->buffer_bytes, int64_t{256} << 20);
  EXPECT_GT(speed->bytes_per_s, 1e7);
  EXPECT_LT(speed->bytes_per_s, 1e13);
}

TEST(MemorySpeedTest, AnOddNumberOfThreadsIsMadeUsable) {
  const absl::StatusOr<MemorySpeed> speed = MeasureMemorySpeed(0);
  if (absl::IsResourceExhausted(speed.status())) GTEST_SKIP() << speed.status();
  ASSERT_TRUE(speed.ok()) << speed.status();
  EXPECT_EQ(speed->threads, 1);
}

}  // namespace
}  // namespace omni
