#include "store/plan/machine.h"

#include <dlfcn.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <absl/strings/ascii.h>
#include <absl/strings/str_split.h>

namespace omni {
namespace fs = std::filesystem;
namespace {

constexpr size_t kMaxBytes = 1 << 20;  // of a file that is read; /proc/cpuinfo of a large machine is longer

std::optional<int64_t> ToNumber(const std::string& text) {
  int64_t value = 0;
  const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || at == text.data() || value < 0) return std::nullopt;
  return value;
}

std::vector<std::string> Lines(const std::string& text) { return absl::StrSplit(text, '\n'); }

std::optional<int64_t> SoftLimit(int resource) {
  rlimit limit{};
  if (getrlimit(static_cast<__rlimit_resource_t>(resource), &limit) != 0) return std::nullopt;
  if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur > static_cast<rlim_t>(INT64_MAX)) return INT64_MAX;
  return static_cast<int64_t>(limit.rlim_cur);
}

}  // namespace

std::optional<std::string> Machine::Read(const std::string& path) const {
  std::ifstream in(root_ + path, std::ios::binary);
  if (!in) return std::nullopt;
  std::string text(kMaxBytes, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(std::max<std::streamsize>(0, in.gcount())));
  return text;
}

// The text after "NAME:" of the first line that begins so.
std::optional<std::string> Machine::Field(const std::string& path, const std::string& name) const {
  const std::optional<std::string> text = Read(path);
  if (!text) return std::nullopt;
  for (const std::string& line : Lines(*text)) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    std::string key = line.substr(0, colon), value = line.substr(colon + 1);
    absl::StripAsciiWhitespace(&key);
    absl::StripAsciiWhitespace(&value);
    if (key == name) return value;
  }
  return std::nullopt;
}

std::optional<std::string> Machine::CpuModel() const {
  std::optional<std::string> name = Field("/proc/cpuinfo", "model name");
  if (!name || name->empty()) return std::nullopt;
  return name;
}

int Machine::Cores() const { return static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN))); }

int Machine::UsableCores() const {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return Cores();  // more cores than the set holds, too
  return std::max(1, CPU_COUNT(&set));
}

std::optional<int64_t> Machine::CpuCacheBytes() const {
  for (int level : {_SC_LEVEL4_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE, _SC_LEVEL2_CACHE_SIZE}) {
    if (const int64_t bytes = sysconf(level); bytes > 0) return bytes;
  }
  return std::nullopt;
}

std::optional<int64_t> Machine::Meminfo(const std::string& name) const {
  const std::optional<std::string> text = Field("/proc/meminfo", name);
  const std::optional<int64_t> kib = text ? ToNumber(*text) : std::nullopt;
  if (!kib || *kib > INT64_MAX / 1024) return std::nullopt;
  return *kib * 1024;
}

std::optional<int64_t> Machine::MemoryTotal() const { return Meminfo("MemTotal"); }
std::optional<int64_t> Machine::MemoryAvailable() const { return Meminfo("MemAvailable"); }

// Of a control group: pages of files that can be given back do not count as used.
std::optional<int64_t> Machine::UsedBytes(const std::string& group, const char* used_name) const {
  const std::optional<std::string> text = Read(group + used_name);
  std::optional<int64_t> used = text ? ToNumber(*text) : std::nullopt;
  const std::optional<std::string> stat = Read(group + "/memory.stat");
  if (!used || !stat) return used;
  for (const std::string& line : Lines(*stat)) {
    for (const std::string_view name : {"inactive_file ", "total_inactive_file "}) {
      if (!line.starts_with(name)) continue;
      const int64_t pages = ToNumber(line.substr(name.size())).value_or(0);
      return std::max<int64_t>(0, *used - pages);
    }
  }
  return used;
}

std::optional<Machine::Limit> Machine::CgroupMemory() const {
  const std::optional<std::string> groups = Read("/proc/self/cgroup");
  if (!groups) return std::nullopt;
  std::optional<Limit> least;
  for (const std::string& line : Lines(*groups)) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const bool second = parts[1].empty();
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    if (!second && std::find(controllers.begin(), controllers.end(), "memory") == controllers.end()) continue;
    const std::string base = second ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    const char* limit_name = second ? "/memory.max" : "/memory.limit_in_bytes";
    const char* used_name = second ? "/memory.current" : "/memory.usage_in_bytes";
    std::string path = parts[2] == "/" ? "" : parts[2];
    for (int depth = 0; depth < 64; ++depth) {
      const std::optional<std::string> text = Read(base + path + limit_name);
      const std::optional<int64_t> bytes = text ? ToNumber(*text) : std::nullopt;  // "max": none
      // Version 1 writes a number near 2^63 for "none".
      if (bytes && *bytes < int64_t{1} << 60 && (!least || *bytes < least->bytes)) {
        least = Limit{*bytes, UsedBytes(base + path, used_name)};
      }
      if (path.empty()) break;
      path.resize(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/'));
    }
  }
  return least;
}

std::optional<int64_t> Machine::FreeMemory() const {
  std::optional<int64_t> free = MemoryAvailable();
  if (const std::optional<Limit> limit = CgroupMemory()) {
    const int64_t rest = std::max<int64_t>(0, limit->bytes - limit->used_bytes.value_or(0));
    free = std::min(free.value_or(rest), rest);
  }
  return free;
}

std::optional<int64_t> Machine::DefaultBudget() const {
  const std::optional<int64_t> free = FreeMemory();
  if (!free) return std::nullopt;
  return *free / 4 * 3;
}

std::optional<std::string> Machine::TransparentHugePages() const {
  const std::optional<std::string> text = Read("/sys/kernel/mm/transparent_hugepage/enabled");
  if (!text) return std::nullopt;
  const size_t open = text->find('['), close = text->find(']');
  if (open == std::string::npos || close == std::string::npos || close < open) return std::nullopt;
  return text->substr(open + 1, close - open - 1);
}

std::optional<int> Machine::IoUringDisabled() const {
  const std::optional<std::string> text = Read("/proc/sys/kernel/io_uring_disabled");
  const std::optional<int64_t> value = text ? ToNumber(*text) : std::nullopt;
  if (!value || *value > 2) return std::nullopt;
  return static_cast<int>(*value);
}

std::optional<bool> Machine::SeccompFilter() const {
  const std::optional<std::string> mode = Field("/proc/self/status", "Seccomp");
  if (!mode) return std::nullopt;
  return *mode == "2";
}

std::optional<bool> Machine::NvidiaDevice() const {
  std::error_code error;
  fs::directory_iterator it(root_ + "/dev", error);
  if (error) return std::nullopt;
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with("nvidia") && name.size() > 6 &&
        absl::ascii_isdigit(static_cast<unsigned char>(name[6]))) {
      return true;
    }
  }
  return false;
}

int ProbeIoUring() {
#ifdef __NR_io_uring_setup
  io_uring_params params{};
  const long fd = syscall(__NR_io_uring_setup, 1, &params);
  if (fd < 0) return errno;
  close(static_cast<int>(fd));
  return 0;
#else
  return ENOSYS;
#endif
}

bool FindsCudaDriver() {
  void* library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr) return false;
  dlclose(library);
  return true;
}

std::optional<int64_t> LockedMemoryLimit() { return SoftLimit(RLIMIT_MEMLOCK); }
std::optional<int64_t> OpenFilesLimit() { return SoftLimit(RLIMIT_NOFILE); }

}  // namespace omni
