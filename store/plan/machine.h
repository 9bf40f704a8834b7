// What this machine is and allows. Every answer may be "unknown": a probe never fails and never aborts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "engine/base/control_groups.h"
#include "engine/base/threads.h"

namespace omni {

class Machine {
 public:
  // `root` stands before every path under /proc, /sys and /dev; a test's folder, or empty. Reads when asked,
  // keeps nothing.
  explicit Machine(std::string root = "") : root_(std::move(root)) {}

  std::optional<std::string> CpuModel() const;
  CpuShare Cpu() const { return ThisCpuShare(root_); }

  std::optional<int64_t> CpuCacheBytes() const;  // of the last level

  std::optional<int64_t> MemoryTotal() const;
  std::optional<int64_t> MemoryAvailable() const;  // without what other programs hold, of the machine
  // Of this process's control group and those above it the one that leaves least.
  std::optional<ControlGroups::Limit> CgroupMemory() const { return ControlGroups(root_).Memory(); }
  // Of the above, what a new process could get; three quarters of it is the budget where none is given.
  std::optional<int64_t> FreeMemory() const;
  std::optional<int64_t> DefaultBudget() const;

  std::optional<std::string> TransparentHugePages() const;  // "always", "madvise" or "never"
  std::optional<int> IoUringDisabled() const;               // kernel.io_uring_disabled: 0, 1 or 2
  std::optional<bool> SeccompFilter() const;                // this process runs under one
  std::optional<bool> NvidiaDevice() const;                 // /dev/nvidia0 and up

 private:
  std::optional<std::string> Read(const std::string& path) const;
  std::optional<std::string> Field(const std::string& path, const std::string& name) const;
  std::optional<int64_t> Meminfo(const std::string& name) const;

  std::string root_;
};

// What the kernel says to a program that wants io_uring: 0 if it may use it, else an errno (EPERM, ENOSYS,
// ENOMEM).
int ProbeIoUring();
// Whether the dynamic linker finds CUDA's driver library; nothing in it is called.
bool FindsCudaDriver();
// Soft limits of this process (RLIMIT_MEMLOCK, RLIMIT_NOFILE); INT64_MAX: none.
std::optional<int64_t> LockedMemoryLimit();
std::optional<int64_t> OpenFilesLimit();

}  // namespace omni
