#include "engine/base/log_rate_limit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace omni {
namespace {

using std::chrono::milliseconds;

constexpr LogRateLimit::Time kStart{std::chrono::hours(1)};

TEST(LogRateLimit, AdmitsSoManyLinesOfAnEventAndTheNextOnesAfterTheSecond) {
  LogRateLimit limit(2);
  EXPECT_TRUE(limit.Admit("a", LogLevel::kInfo, kStart));
  EXPECT_TRUE(limit.Admit("a", LogLevel::kInfo, kStart + milliseconds(1)));
  EXPECT_FALSE(limit.Admit("a", LogLevel::kInfo, kStart + milliseconds(999)));
  EXPECT_TRUE(limit.Admit("a", LogLevel::kInfo, kStart + milliseconds(1000)));
  EXPECT_TRUE(limit.Admit("a", LogLevel::kInfo, kStart + milliseconds(1999)));
  EXPECT_FALSE(limit.Admit("a", LogLevel::kInfo, kStart + milliseconds(1999)));
}

TEST(LogRateLimit, CountsEachEventAlone) {
  LogRateLimit limit(1);
  EXPECT_TRUE(limit.Admit("a", LogLevel::kInfo, kStart));
  EXPECT_FALSE(limit.Admit("a", LogLevel::kInfo, kStart));
  EXPECT_TRUE(limit.Admit("b", LogLevel::kInfo, kStart));
}

TEST(LogRateLimit, TellsWhatWasLeftOutOnceAndOnlyWhenItsSecondIsOver) {
  LogRateLimit limit(1);
  for (int i = 0; i < 4; ++i) limit.Admit("a", LogLevel::kWarning, kStart);
  for (int i = 0; i < 3; ++i) limit.Admit("b", LogLevel::kDebug, kStart + milliseconds(500));
  EXPECT_TRUE(limit.TakeLeftOut(kStart + milliseconds(999)).empty());

  const auto first = limit.TakeLeftOut(kStart + milliseconds(1000));
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0].event, "a");
  EXPECT_EQ(first[0].level, LogLevel::kWarning);
  EXPECT_EQ(first[0].lines, 3);

  const auto second = limit.TakeLeftOut(LogRateLimit::Time::max());
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(second[0].event, "b");
  EXPECT_EQ(second[0].lines, 2);
  EXPECT_TRUE(limit.TakeLeftOut(LogRateLimit::Time::max()).empty());
}

TEST(LogRateLimit, KeepsTheCountOfASecondThatNobodyAskedAbout) {
  LogRateLimit limit(1);
  for (int second = 0; second < 3; ++second) {
    for (int i = 0; i < 5; ++i) limit.Admit("a", LogLevel::kInfo, kStart + std::chrono::seconds(second));
  }
  const auto left_out = limit.TakeLeftOut(LogRateLimit::Time::max());
  ASSERT_EQ(left_out.size(), 1u);
  EXPECT_EQ(left_out[0].lines, 12);
}

}  // namespace
}  // namespace omni
