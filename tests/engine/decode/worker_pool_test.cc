#include "engine/decode/worker_pool.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/thread_limit.h"

namespace omni {
namespace {

TEST(WorkerPoolTest, CoversEveryIndexOnceInRangesOfAtLeastTheGrain) {
  for (int threads : {1, 2, 3, 8}) {
    WorkerPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int64_t n : {0, 1, 2, 7, 64, 1000}) {
      for (int64_t grain : {0, 1, 3, 64, 5000}) {
        std::vector<int> seen(static_cast<size_t>(n));
        std::atomic<bool> short_range{false};
        pool.Run(n, grain, [&](int64_t begin, int64_t end) {
          if (end - begin < std::min(n, grain)) short_range = true;
          for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
        });
        EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](int count) { return count == 1; }))
            << threads << " threads, n " << n << ", grain " << grain;
        EXPECT_FALSE(short_range) << threads << " threads, n " << n << ", grain " << grain;
      }
    }
  }
}

TEST(WorkerPoolTest, RunsOnOtherThreadsToo) {
  WorkerPool pool(3);
  // Two ranges wait for each other: only two threads at once can finish this.
  std::atomic<int> arrived{0};
  pool.Run(2, 1, [&](int64_t, int64_t) {
    ++arrived;
    while (arrived < 2) std::this_thread::yield();
  });
  EXPECT_EQ(arrived, 2);
}

TEST(WorkerPoolTest, WhatHelpersWroteIsVisibleAfterwards) {
  WorkerPool pool(3);
  std::vector<int64_t> values(997);
  for (int64_t round = 0; round < 3000; ++round) {
    pool.Run(static_cast<int64_t>(values.size()), 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] += i + round;
    });
    ASSERT_EQ(values[500], (round + 1) * 500 + round * (round + 1) / 2);
  }
}

TEST(WorkerPoolTest, SecondCallersAndNestedRunsDoTheirOwnWork) {
  WorkerPool pool(2);
  const auto sum_to = [&pool](int64_t n) {
    std::atomic<int64_t> sum{0};
    pool.Run(n, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        pool.Run(2, 1, [&](int64_t from, int64_t to) { sum += i * (to - from); });
      }
    });
    return sum.load();
  };
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int64_t n = 0; n < 200; ++n) wrong += sum_to(n) != n * (n - 1);
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
}

TEST(WorkerPoolTest, EndsWhileHelpersSpinOrSleep) {
  for (int i = 0; i < 200; ++i) {
    WorkerPool pool(4);
    if (i % 2) pool.Run(64, 1, [](int64_t, int64_t) {});
  }
}

TEST(WorkerPoolTest, WorksWithTheThreadsThatItGotAndSaysWhyThereAreFewer) {
  const auto report = testing::WithThreadLimit(3, [] {
    WorkerPool pool(8);
    std::atomic<int64_t> sum{0};
    pool.Run(1000, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sum += i;
    });
    return std::to_string(pool.threads()) + " threads, sum " + std::to_string(sum) + ", " +
           std::string(pool.status().message());
  });
  if (!report) GTEST_SKIP() << "only root can become a user with a limit of its own";
  EXPECT_THAT(*report,
              ::testing::StartsWith("3 threads, sum 499500, cannot start 7 threads to help computing: "));
  EXPECT_EQ(WorkerPool(3).status(), absl::OkStatus());
}

}  // namespace
}  // namespace omni
