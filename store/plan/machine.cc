#include "store/plan/machine.h"

#include <dlfcn.h>
#include <linux/io_uring.h>
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

std::optional<int64_t> Machine::FreeMemory() const {
  std::optional<int64_t> free = MemoryAvailable();
  if (const auto limit = CgroupMemory()) free = std::min(free.value_or(limit->left()), limit->left());
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
