#include "cluster/grpc_loop.h"

#include <atomic>
#include <chrono>
#include <future>
#include <thread>
#include <vector>

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

namespace omni {
namespace {

struct Counted : public GrpcLoop::Tag {
  void Done(bool) override { ++times; }
  int times = 0;
};

class GrpcLoopTest : public ::testing::TestWithParam<GrpcLoop::Waiting> {
 protected:
  // What comes at once to the loop's queue.
  void Come(grpc::Alarm& alarm, Counted& tag) {
    alarm.Set(&loop_.queue(), gpr_time_0(GPR_CLOCK_MONOTONIC), &tag);
  }
  GrpcLoop loop_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(All, GrpcLoopTest,
                         ::testing::Values(GrpcLoop::Waiting::kSleeping, GrpcLoop::Waiting::kWatching),
                         [](const auto& info) {
                           return info.param == GrpcLoop::Waiting::kSleeping ? "Sleeping" : "Watching";
                         });

TEST_P(GrpcLoopTest, PollTakesAllThatHasComeAndDoesNotWait) {
  Counted first, second;
  grpc::Alarm a, b;
  Come(a, first);
  Come(b, second);
  while (first.times + second.times < 2) loop_.Poll();
  loop_.Poll();
  EXPECT_EQ(first.times, 1);
  EXPECT_EQ(second.times, 1);
}

TEST_P(GrpcLoopTest, CountsItsTurns) {
  const uint64_t before = loop_.turns();
  loop_.Poll();
  EXPECT_EQ(loop_.turns(), before + 1);
  loop_.Wake();
  loop_.Wait();
  EXPECT_EQ(loop_.turns(), before + 2);
}

TEST_P(GrpcLoopTest, WaitTakesWhatComes) {
  Counted tag;
  grpc::Alarm alarm;
  auto coming = std::async(std::launch::async, [&] { Come(alarm, tag); });
  loop_.Wait();
  EXPECT_EQ(tag.times, 1);
}

TEST_P(GrpcLoopTest, WhatIsForLaterIsDoneBeforeTheNextWaitOrPollLooks) {
  int done = 0;
  loop_.Later([&] { ++done; });
  loop_.Poll();
  EXPECT_EQ(done, 1);
  loop_.Later([&] {
    ++done;
    loop_.Wake();
  });
  loop_.Wait();  // would wait for ever if it were done afterwards
  EXPECT_EQ(done, 2);
  loop_.Poll();
  EXPECT_EQ(done, 2);
}

TEST_P(GrpcLoopTest, AWakeBeforeTheWaitIsRemembered) {
  loop_.Wake();
  loop_.Wait();
}

TEST_P(GrpcLoopTest, EveryWakeEndsAWait) {
  std::atomic<int> waited = 0;
  std::thread waiting([&] {
    for (int i = 0; i < 200; ++i) {
      loop_.Wait();
      ++waited;
    }
  });
  for (int i = 0; i < 200; ++i) {
    loop_.Wake();
    while (waited <= i) std::this_thread::yield();
  }
  waiting.join();
  EXPECT_EQ(waited, 200);
}

TEST_P(GrpcLoopTest, ManyMayWakeAtOnce) {
  std::atomic<bool> stop = false;
  std::vector<std::thread> wakers;
  for (int i = 0; i < 4; ++i) {
    wakers.emplace_back([&] {
      while (!stop) loop_.Wake();
    });
  }
  for (int i = 0; i < 2000; ++i) loop_.Wait();
  stop = true;
  for (std::thread& t : wakers) t.join();
  loop_.Poll();
}

}  // namespace
}  // namespace omni
