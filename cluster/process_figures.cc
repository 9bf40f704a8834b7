#include "cluster/process_figures.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <system_error>

namespace omni {
namespace {

// The fields of /proc/self/stat after the program's name, which may hold anything; the first is number 3.
constexpr int kFirstField = 3, kUserTicks = 14, kSystemTicks = 15, kThreads = 20, kStartTicks = 22,
              kVirtualBytes = 23, kResidentPages = 24;

double BootSeconds() {
  std::ifstream stat("/proc/stat");
  for (std::string word; stat >> word;) {
    double seconds = 0;
    if (word == "btime" && stat >> seconds) return seconds;
  }
  return 0;
}

}  // namespace

ProcessFigures ThisProcess() {
  ProcessFigures figures;
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return figures;
  std::istringstream fields(line.substr(name_end + 1));
  const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  int field = kFirstField;
  for (std::string word; fields >> word && field <= kResidentPages; ++field) {
    const double value = field == kFirstField ? 0 : std::strtod(word.c_str(), nullptr);
    if (field == kUserTicks || field == kSystemTicks) figures.cpu_seconds += value / ticks;
    if (field == kThreads) figures.threads = static_cast<int64_t>(value);
    if (field == kStartTicks) figures.start_seconds = BootSeconds() + value / ticks;
    if (field == kVirtualBytes) figures.virtual_bytes = static_cast<int64_t>(value);
    if (field == kResidentPages) figures.resident_bytes = static_cast<int64_t>(value) * sysconf(_SC_PAGESIZE);
  }
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) figures.most_files = static_cast<int64_t>(files.rlim_cur);
  return figures;
}

int64_t CountOpenFiles() {
  int64_t count = 0;
  std::error_code error;
  for (auto at = std::filesystem::directory_iterator("/proc/self/fd", error);
       !error && at != std::filesystem::directory_iterator(); at.increment(error)) {
    ++count;
  }
  return count;
}

}  // namespace omni
