// What one caller may have: at one time, a minute, and for how long.
#include "cluster/caller_limits.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace omni {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;
using PermitPtr = std::shared_ptr<CallerLimits::Permit>;

class CallerLimitsTest : public ::testing::Test {
 protected:
  void Limit(const CallerLimitOptions& options) {
    limits_ = std::make_unique<CallerLimits>(options, [this] { return now_; });
  }
  PermitPtr Enter(const std::string& caller) {
    auto permit = limits_->Enter(caller);
    EXPECT_TRUE(permit.ok()) << permit.status();
    return permit.ok() ? *permit : nullptr;
  }
  // When to come back, as the refusal says.
  milliseconds Refused(const std::string& caller, const std::string& why) {
    const absl::Status status = limits_->Enter(caller).status();
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
    return RetryAfter(status);
  }

  CallerLimits::Clock::time_point now_{seconds(1000)};
  std::unique_ptr<CallerLimits> limits_;
};

TEST_F(CallerLimitsTest, EachCallerHasSoManyAtOneTime) {
  Limit({.requests = 2, .tokens_per_minute = 0, .time = milliseconds(0)});
  PermitPtr first = Enter("one");
  const PermitPtr second = Enter("one"), other = Enter("two");
  EXPECT_GT(Refused("one", "2 requests under way"), milliseconds(0));
  first = nullptr;
  EXPECT_NE(Enter("one"), nullptr);
}

TEST_F(CallerLimitsTest, TokensThatAreOwedAreWaitedFor) {
  Limit({.requests = 0, .tokens_per_minute = 600, .time = milliseconds(0)});  // ten a second
  const PermitPtr permit = Enter("one");
  permit->OnTokens(599);
  EXPECT_NE(Enter("one"), nullptr);
  permit->OnTokens(101);  // 100 are owed
  EXPECT_EQ(Refused("one", "600 tokens a minute"), milliseconds(10'100));
  EXPECT_NE(Enter("two"), nullptr);
  now_ += milliseconds(10'000);
  EXPECT_EQ(Refused("one", "600 tokens a minute"), milliseconds(100));
  now_ += milliseconds(100);
  EXPECT_NE(Enter("one"), nullptr);
}

TEST_F(CallerLimitsTest, WhatIsNotUsedIsSavedForAMinuteAndNoLonger) {
  Limit({.requests = 0, .tokens_per_minute = 60, .time = milliseconds(0)});
  const PermitPtr permit = Enter("one");
  now_ += std::chrono::hours(1);
  permit->OnTokens(0);
  EXPECT_NE(Enter("one"), nullptr);  // which fills the bucket
  permit->OnTokens(60);
  EXPECT_EQ(Refused("one", "tokens a minute"), seconds(1));
}

TEST_F(CallerLimitsTest, ARequestHasItsTime) {
  Limit({.requests = 0, .tokens_per_minute = 0, .time = seconds(5)});
  const PermitPtr permit = Enter("one");
  now_ += milliseconds(4'999);
  EXPECT_TRUE(permit->InTime().ok());
  now_ += milliseconds(1);
  EXPECT_TRUE(absl::IsDeadlineExceeded(permit->InTime()));
  EXPECT_TRUE(Enter("one")->InTime().ok());
}

TEST_F(CallerLimitsTest, WithoutLimitsThereAreNone) {
  Limit({});
  std::vector<PermitPtr> permits;
  for (int i = 0; i < 1000; ++i) permits.push_back(Enter("one"));
  permits.front()->OnTokens(int64_t{1} << 50);
  now_ += std::chrono::hours(10'000);
  EXPECT_TRUE(permits.front()->InTime().ok());
  EXPECT_NE(Enter("one"), nullptr);
}

TEST_F(CallerLimitsTest, CallersThatCameOnceAreForgotten) {
  Limit({.requests = 1, .tokens_per_minute = 10, .time = milliseconds(0)});
  const PermitPtr kept = Enter("kept");
  for (int i = 0; i < 5000; ++i) Enter("caller " + std::to_string(i));
  EXPECT_LE(limits_->callers(), 1100u);
  Refused("kept", "under way");
  // Who owes is not.
  Enter("owing")->OnTokens(100);
  for (int i = 0; i < 5000; ++i) Enter("other " + std::to_string(i));
  Refused("owing", "tokens a minute");
}

TEST_F(CallerLimitsTest, ARequestMayOutliveTheLimits) {
  Limit({.requests = 1, .tokens_per_minute = 10, .time = seconds(1)});
  const PermitPtr permit = Enter("one");
  limits_ = nullptr;
  permit->OnTokens(5);
  EXPECT_TRUE(permit->InTime().ok());
}

TEST_F(CallerLimitsTest, ManyThreadsNeverHaveMoreThanTheLimit) {
  Limit({.requests = 3, .tokens_per_minute = 0, .time = milliseconds(0)});
  std::atomic<int> under_way = 0, most = 0, entered = 0;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        const auto permit = limits_->Enter("one");
        if (!permit.ok()) continue;
        ++entered;
        const int n = ++under_way;
        for (int seen = most; seen < n && !most.compare_exchange_weak(seen, n);) {
        }
        --under_way;
      }
    });
  }
  threads.clear();
  EXPECT_LE(most, 3);
  EXPECT_GT(entered, 0);
  EXPECT_NE(Enter("one"), nullptr);
}

}  // namespace
}  // namespace omni
