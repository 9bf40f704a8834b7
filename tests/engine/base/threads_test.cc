#include "engine/base/threads.h"

#include <sched.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"
#include "tests/testing/thread_limit.h"

namespace omni {
namespace {

using ::testing::HasSubstr;

TEST(CpuShareTest, ThreadsFollowAffinityAndQuota) {
  const auto threads = [](int allowed, double quota) {
    return CpuShare{64, allowed, ControlGroups::Quota{"/", quota}}.Threads();
  };
  EXPECT_EQ((CpuShare{64, 5, {}}.Threads()), 5);
  EXPECT_EQ(threads(8, 0.01), 1);
  EXPECT_EQ(threads(8, 0.5), 1);
  EXPECT_EQ(threads(8, 1), 1);
  EXPECT_EQ(threads(8, 1.25), 2);
  EXPECT_EQ(threads(8, 7.5), 8);
  EXPECT_EQ(threads(8, 1e300), 8);
  EXPECT_EQ(threads(1, 4), 1);
}

TEST(CpuShareTest, ASmallerAffinityIsSeen) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  const CpuShare share = ThisCpuShare();
  EXPECT_EQ(sched_setaffinity(0, sizeof before, &before), 0);
  EXPECT_EQ(share.allowed, 1);
  EXPECT_EQ(share.Threads(), 1);
  EXPECT_EQ(ThisCpuShare().allowed, CPU_COUNT(&before));
}

TEST(CpuShareTest, TheQuotaOfAControlGroupIsSeen) {
  const testing::TempDir root;
  std::filesystem::create_directories(root / "proc/self");
  std::filesystem::create_directories(root / "sys/fs/cgroup/a");
  std::ofstream(root / "proc/self/cgroup") << "0::/a\n";
  std::ofstream(root / "sys/fs/cgroup/a/cpu.max") << "50000 100000\n";
  EXPECT_EQ(ThisCpuShare(root.path()).Threads(), 1);
}

TEST(ThreadsRefusedTest, SaysHowManyWhatForAndWhy) {
  const absl::Status status = ThreadsRefused(8, "compute", EAGAIN);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_THAT(status.message(),
              HasSubstr("cannot start 8 threads to compute: Resource temporarily unavailable; "));
}

TEST(CheckThreadsTest, AFewCanBeStarted) { EXPECT_EQ(CheckThreads(4, "test"), absl::OkStatus()); }

TEST(CheckThreadsTest, ALimitOfTheUserIsNamed) {
  const auto message =
      testing::WithThreadLimit(3, [] { return std::string(CheckThreads(8, "test").message()); });
  if (!message) GTEST_SKIP() << "only root can become a user with a limit of its own";
  EXPECT_THAT(
      *message,  // 4 where a sanitizer has a thread of its own
      ::testing::MatchesRegex("cannot start 8 threads to test: Resource temporarily unavailable; this "
                              "user may have [34] processes and threads .ulimit -u.: .*"));
}

}  // namespace
}  // namespace omni
