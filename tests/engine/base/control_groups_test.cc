#include "engine/base/control_groups.h"

#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

class ControlGroupsTest : public ::testing::Test {
 protected:
  void Put(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_.path() + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << text;
  }
  ControlGroups groups() const { return ControlGroups(root_.path()); }

  testing::TempDir root_;
};

TEST_F(ControlGroupsTest, WithoutGroupsThereIsNoLimit) {
  EXPECT_FALSE(groups().Memory());
  EXPECT_FALSE(groups().Tasks());
  EXPECT_FALSE(groups().Cpu());
  for (const char* text : {"", "\n\n", ":", "0", "0:", "0::", "0::/", "x:memory,pids,cpu:/..", "0::/../up"}) {
    Put("/proc/self/cgroup", text);
    Put("/proc/self/mountinfo", text);
    EXPECT_FALSE(groups().Memory()) << text;
    EXPECT_FALSE(groups().Tasks()) << text;
    EXPECT_FALSE(groups().Cpu()) << text;
  }
}

// A group of 380 that is empty, in one of 400 of which a sibling has taken 337.
TEST_F(ControlGroupsTest, TheGroupThatLeavesLeastCountsNotTheSmallest) {
  Put("/proc/self/cgroup", "0::/parent/own\n");
  Put("/sys/fs/cgroup/parent/own/memory.max", "380\n");
  Put("/sys/fs/cgroup/parent/own/memory.current", "5\n");
  Put("/sys/fs/cgroup/parent/memory.max", "400\n");
  Put("/sys/fs/cgroup/parent/memory.current", "337\n");
  Put("/sys/fs/cgroup/parent/own/pids.max", "10\n");
  Put("/sys/fs/cgroup/parent/own/pids.current", "1\n");
  Put("/sys/fs/cgroup/parent/pids.max", "20\n");
  Put("/sys/fs/cgroup/parent/pids.current", "19\n");
  ASSERT_TRUE(groups().Memory());
  EXPECT_EQ(groups().Memory()->group, "/parent");
  EXPECT_EQ(groups().Memory()->most, 400);
  EXPECT_EQ(groups().Memory()->left(), 63);
  ASSERT_TRUE(groups().Tasks());
  EXPECT_EQ(groups().Tasks()->group, "/parent");
  EXPECT_EQ(groups().Tasks()->left(), 1);
}

TEST_F(ControlGroupsTest, TheFirstVersionHasAHierarchyForEachController) {
  Put("/proc/self/cgroup", "9:cpu,cpuacct:/c/d\n4:memory:/a/b\n3:pids:/p\n0::/y\n");
  Put("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_FALSE(groups().Memory());
  Put("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "380\n");
  Put("/sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "5\n");
  Put("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "400\n");
  Put("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "337\n");
  Put("/sys/fs/cgroup/memory/a/memory.stat", "inactive_file 1\ntotal_inactive_file 37\n");
  EXPECT_EQ(groups().Memory()->left(), 100);
  Put("/sys/fs/cgroup/pids/p/pids.max", "max\n");
  EXPECT_FALSE(groups().Tasks());
  Put("/sys/fs/cgroup/pids/p/pids.max", "6\n");
  EXPECT_EQ(groups().Tasks()->most, 6);
  Put("/sys/fs/cgroup/cpu/c/d/cpu.cfs_quota_us", "-1\n");
  Put("/sys/fs/cgroup/cpu/c/d/cpu.cfs_period_us", "100000\n");
  EXPECT_FALSE(groups().Cpu());
  Put("/sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", "50000\n");
  Put("/sys/fs/cgroup/cpu/c/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(groups().Cpu()->cores, 0.5);
  EXPECT_EQ(groups().Cpu()->group, "/c");
}

TEST_F(ControlGroupsTest, TheSmallestQuotaOfAllGroupsCounts) {
  Put("/proc/self/cgroup", "0::/a/b\n");
  Put("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  EXPECT_FALSE(groups().Cpu());
  Put("/sys/fs/cgroup/a/cpu.max", "150000 100000\n");
  EXPECT_EQ(groups().Cpu()->cores, 1.5);
  Put("/sys/fs/cgroup/a/b/cpu.max", "300000 100000\n");
  EXPECT_EQ(groups().Cpu()->cores, 1.5);
  for (const char* text : {"", "x", "0 100000", "100000 0", "100000", "-1 100000", "1 2 3"}) {
    Put("/sys/fs/cgroup/a/cpu.max", text);
    EXPECT_EQ(groups().Cpu()->cores, 3) << text;
  }
}

// As in a container that sees part of the hierarchy, somewhere else, through a name with a space.
TEST_F(ControlGroupsTest, HierarchiesAreFoundWhereTheyAreMounted) {
  Put("/proc/self/cgroup", "4:memory:/docker/abc/in\n0::/docker/abc/in\n");
  Put("/proc/self/mountinfo",
      "24 1 0:22 / /proc rw - proc proc rw\n"
      "31 24 0:27 /docker/abc /groups\\040here/unified rw,nosuid shared:9 - cgroup2 cgroup rw\n"
      "33 24 0:29 /docker/abc /groups\\040here/memory rw - cgroup cgroup rw,memory\n");
  Put("/groups here/memory/in/memory.limit_in_bytes", "700\n");
  EXPECT_EQ(groups().Memory()->group, "/in");
  Put("/groups here/memory/memory.limit_in_bytes", "600\n");
  EXPECT_EQ(groups().Memory()->group, "/");
  Put("/groups here/unified/in/cpu.max", "200000 100000\n");
  EXPECT_EQ(groups().Cpu()->cores, 2);
  // Told of a group that it cannot see, it still sees the outermost of its own.
  Put("/proc/self/cgroup", "4:memory:/../../elsewhere\n");
  EXPECT_EQ(groups().Memory()->most, 600);
}

}  // namespace
}  // namespace omni
