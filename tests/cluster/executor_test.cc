#include "cluster/executor.h"

#include <atomic>
#include <chrono>
#include <filesystem>
#include <future>
#include <iterator>
#include <latch>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace omni {
namespace {

auto Threads() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                       std::filesystem::directory_iterator());
}
// Within a minute.
bool AwaitThreads(std::ptrdiff_t want) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (Threads() != want) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::yield();
  }
  return true;
}

TEST(ExecutorTest, OneThreadDoesWhatComesInOrder) {
  std::vector<int> done;
  {
    Executor executor;
    for (int i = 0; i < 1000; ++i) executor.Post([&done, i] { done.push_back(i); });
    executor.Post([&] { executor.Post([&done] { done.push_back(1000); }); });
  }
  ASSERT_EQ(done.size(), 1001u);
  for (int i = 0; i <= 1000; ++i) EXPECT_EQ(done[static_cast<size_t>(i)], i);
}

TEST(ExecutorTest, SeveralWorkAtOnceButNoMoreThanItMayHave) {
  Executor executor(3);
  std::atomic<int> at_once{0}, most{0};
  std::latch three(3), all(30);
  for (int i = 0; i < 30; ++i) {
    executor.Post([&, i] {
      const int now = ++at_once;
      for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
      }
      if (i < 3) three.arrive_and_wait();  // would never be over with fewer
      --at_once;
      all.count_down();
    });
  }
  all.wait();
  EXPECT_EQ(most, 3);
}

TEST(ExecutorTest, HasAThreadOnlyWhileThereIsSomethingToDo) {
  const auto before = Threads();
  Executor executor(2);
  EXPECT_EQ(Threads(), before);
  for (int round = 0; round < 2; ++round) {
    std::promise<void> go, done;
    executor.Post([&] {
      go.get_future().wait();
      done.set_value();
    });
    EXPECT_EQ(Threads(), before + 1);
    go.set_value();
    done.get_future().wait();
    EXPECT_TRUE(AwaitThreads(before)) << "round " << round;
  }
}

TEST(ExecutorTest, ADeedGoesWithWhatItHolds) {
  Executor executor;
  auto held = std::make_shared<int>(1);
  std::weak_ptr<int> weak = held;
  std::promise<bool> gone;
  executor.Post([held = std::move(held)] {});
  executor.Post([&] { gone.set_value(weak.expired()); });
  EXPECT_TRUE(gone.get_future().get());
}

}  // namespace
}  // namespace omni
