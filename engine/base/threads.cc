#include "engine/base/threads.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <future>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include <absl/strings/str_cat.h>

namespace omni {
namespace {

constexpr int kMostProcessors = 1 << 20;

int ProcessorsOn() { return static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN))); }

// The set grows until it holds the machine's.
int ProcessorsAllowed() {
  for (int size = 1024; size <= kMostProcessors; size *= 4) {
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(static_cast<size_t>(size)),
                                                               [](cpu_set_t* s) { CPU_FREE(s); });
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(size));
    if (set == nullptr) break;
    if (sched_getaffinity(0, bytes, set.get()) == 0) return std::max(1, CPU_COUNT_S(bytes, set.get()));
    if (errno != EINVAL) break;
  }
  return ProcessorsOn();
}

// The limit that kept `wanted` threads from being started.
std::string LimitMet(int wanted) {
  const std::optional<ControlGroups::Limit> tasks = ControlGroups().Tasks();
  if (tasks && tasks->left() < wanted) {
    return absl::StrCat("control group ", tasks->group, " allows ", tasks->most,
                        " processes and threads (pids.max)");
  }
  rlimit limit{};
  if (getrlimit(RLIMIT_NPROC, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    return absl::StrCat("this user may have ", limit.rlim_cur, " processes and threads (ulimit -u)");
  return "neither a control group nor ulimit -u says why; the machine's memory or kernel.threads-max may";
}

}  // namespace

int CpuShare::Threads() const {
  if (!quota) return allowed;
  return std::clamp(static_cast<int>(std::ceil(std::min(quota->cores, 1e6))), 1, std::max(1, allowed));
}

CpuShare ThisCpuShare(const std::string& root) {
  return {ProcessorsOn(), ProcessorsAllowed(), ControlGroups(root).Cpu()};
}

int DefaultThreads() { return ThisCpuShare().Threads(); }

void GiveWayToOthers() {
  // Of Linux's threads each has its own.
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 19);
}

absl::Status ThreadsRefused(int wanted, std::string_view purpose, int error) {
  return absl::ResourceExhaustedError(absl::StrCat(
      "cannot start ", wanted, wanted == 1 ? " thread" : " threads", " to ", std::string(purpose), ": ",
      std::strerror(error), "; ", LimitMet(wanted), ": allow more, or use fewer threads"));
}

absl::Status CheckThreads(int count, std::string_view purpose) {
  std::promise<void> go;
  const std::shared_future<void> gone = go.get_future().share();
  std::vector<std::thread> threads;
  absl::Status status;
  try {
    for (int i = 0; i < count; ++i) threads.emplace_back([gone] { gone.wait(); });
  } catch (const std::system_error& error) {
    status = ThreadsRefused(count, purpose, error.code().value());
  }
  go.set_value();
  for (std::thread& thread : threads) thread.join();
  return status;
}

}  // namespace omni
