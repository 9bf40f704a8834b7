#include "store/plan/machine.h"

#include <liburing.h>
#include <sys/resource.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using omni::testing::TempDir;

class MachineTest : public ::testing::Test {
 protected:
  void Put(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_.path() + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << text;
  }
  Machine machine() const { return Machine(root_.path()); }

  TempDir root_;
};

TEST_F(MachineTest, ASystemThatTellsNothingIsUnknown) {
  EXPECT_FALSE(machine().CpuModel());
  EXPECT_FALSE(machine().MemoryTotal());
  EXPECT_FALSE(machine().MemoryAvailable());
  EXPECT_FALSE(machine().CgroupMemory());
  EXPECT_FALSE(machine().FreeMemory());
  EXPECT_FALSE(machine().DefaultBudget());
  EXPECT_FALSE(machine().TransparentHugePages());
  EXPECT_FALSE(machine().IoUringDisabled());
  EXPECT_FALSE(machine().SeccompFilter());
  EXPECT_FALSE(machine().NvidiaDevice());
}

TEST_F(MachineTest, NonsenseIsUnknown) {
  for (const char* text : {"", "\n\n", ":", "MemTotal", "MemTotal:\nMemAvailable: many kB", "[", "][",
                           "MemTotal: 99999999999999999999 kB", "MemTotal: 9223372036854775807 kB", "-5"}) {
    for (const char* path :
         {"/proc/cpuinfo", "/proc/meminfo", "/proc/self/cgroup", "/proc/self/status",
          "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/sys/kernel/io_uring_disabled"}) {
      Put(path, text);
    }
    EXPECT_FALSE(machine().CpuModel()) << text;
    EXPECT_FALSE(machine().MemoryTotal()) << text;
    EXPECT_FALSE(machine().FreeMemory()) << text;
    EXPECT_FALSE(machine().CgroupMemory()) << text;
    EXPECT_FALSE(machine().TransparentHugePages()) << text;
    EXPECT_FALSE(machine().IoUringDisabled()) << text;
  }
}

TEST_F(MachineTest, ReadsCpuAndMemory) {
  Put("/proc/cpuinfo", "processor\t: 0\nmodel name\t: A Fine CPU @ 3 GHz\nflags\t\t: fpu avx2 avx512bw\n");
  Put("/proc/meminfo", "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    800 kB\n");
  EXPECT_EQ(machine().CpuModel(), "A Fine CPU @ 3 GHz");
  EXPECT_EQ(machine().MemoryTotal(), 1000 * 1024);
  EXPECT_EQ(machine().FreeMemory(), 800 * 1024);
  EXPECT_EQ(machine().DefaultBudget(), 600 * 1024);
  Put("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
  EXPECT_EQ(machine().TransparentHugePages(), "madvise");
  Put("/proc/sys/kernel/io_uring_disabled", "2\n");
  EXPECT_EQ(machine().IoUringDisabled(), 2);
  Put("/proc/self/status", "Name:\tomni\nSeccomp:\t2\n");
  EXPECT_EQ(machine().SeccompFilter(), true);
}

TEST_F(MachineTest, FreeIsWhatTheMachineAndEveryControlGroupLeave) {
  Put("/proc/meminfo", "MemTotal: 100000 kB\nMemAvailable: 90000 kB\n");
  Put("/proc/self/cgroup", "0::/a/b\n");
  Put("/sys/fs/cgroup/a/b/memory.max", "max\n");
  EXPECT_FALSE(machine().CgroupMemory());
  Put("/sys/fs/cgroup/a/memory.max", "5000000\n");
  EXPECT_EQ(machine().FreeMemory(), 5'000'000);
  Put("/sys/fs/cgroup/a/memory.current", "2000000\n");
  EXPECT_EQ(machine().FreeMemory(), 3'000'000);
  // Pages of files that may be given back are free.
  Put("/sys/fs/cgroup/a/memory.stat", "anon 5\ninactive_file 1500000\n");
  EXPECT_EQ(machine().FreeMemory(), 4'500'000);
  Put("/sys/fs/cgroup/a/b/memory.max", "4600000\n");  // a smaller limit that leaves more
  EXPECT_EQ(machine().FreeMemory(), 4'500'000);
  EXPECT_EQ(machine().CgroupMemory()->group, "/a");
  EXPECT_EQ(machine().DefaultBudget(), 3'375'000);
  Put("/sys/fs/cgroup/memory.max", "1000\n");
  Put("/sys/fs/cgroup/memory.current", "5000\n");
  EXPECT_EQ(machine().FreeMemory(), 0);
}

TEST_F(MachineTest, FindsNvidiaDevices) {
  Put("/dev/null", "");
  Put("/dev/nvidiactl", "");
  EXPECT_EQ(machine().NvidiaDevice(), false);
  Put("/dev/nvidia0", "");
  EXPECT_EQ(machine().NvidiaDevice(), true);
}

// Whatever this machine allows, its answers fit each other and what the system says in another way.
TEST(MachineProbeTest, ProbesOfThisMachineAgreeWithTheSystem) {
  const CpuShare share = Machine().Cpu();
  EXPECT_GE(share.on, 1);
  EXPECT_GE(share.Threads(), 1);
  EXPECT_LE(share.Threads(), share.allowed);
  io_uring ring;
  const int error = -io_uring_queue_init(1, &ring, 0);
  EXPECT_EQ(ProbeIoUring(), error) << std::strerror(error);
  if (error == 0) io_uring_queue_exit(&ring);
}

TEST(MachineProbeTest, LimitsOfThisProcessAreThoseThatAreSet) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit lower = before;
  lower.rlim_cur = 57;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &lower), 0);
  EXPECT_EQ(OpenFilesLimit(), 57);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit locked{};
  ASSERT_EQ(getrlimit(RLIMIT_MEMLOCK, &locked), 0);
  EXPECT_EQ(LockedMemoryLimit(),
            locked.rlim_cur == RLIM_INFINITY ? INT64_MAX : static_cast<int64_t>(locked.rlim_cur));
}

}  // namespace
}  // namespace omni
