// How many threads to start, and what is said when the system refuses one.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <absl/status/status.h>

#include "engine/base/control_groups.h"

namespace omni {

// The processors that this process may use.
struct CpuShare {
  int on = 1;       // of the machine
  int allowed = 1;  // of those, by this process's affinity (taskset, a container's cpuset)
  std::optional<ControlGroups::Quota> quota;

  // The threads that use this share best. A quota of 1.25 cores is worth two: they decode 1.2 times as fast
  // as one (1.5: 1.4 times), but on half a core two are slower than one. At least 1.
  int Threads() const;
};
// `root` as of ControlGroups; the numbers of processors are the running system's whatever it is.
CpuShare ThisCpuShare(const std::string& root = "");

// What every part of this project takes where no number of threads is given.
int DefaultThreads();

// This thread, and those that it starts from now on, are least urgent of all (nice 19): whoever wakes beside
// them runs at once. There is no way back.
void GiveWayToOthers();

// ResourceExhausted: `wanted` threads cannot all be started, because of `error` (an errno); names the limit
// that was met, as far as the system tells. `purpose`: what they do, as "compute". To be called while those
// that did start still run.
absl::Status ThreadsRefused(int wanted, std::string_view purpose, int error);

// Whether `count` threads could be started now. For libraries that end the process when one cannot.
absl::Status CheckThreads(int count, std::string_view purpose);

}  // namespace omni
