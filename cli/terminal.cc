#include "cli/terminal.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "engine/base/log_output.h"

namespace omni::cli {
namespace {

// Of the terminal, which is the process's; touched only while the log is paused.
bool line_is_shown = false;

void EraseLine() {
  if (!line_is_shown) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
  line_is_shown = false;
}

}  // namespace

bool StdoutIsTerminal() { return isatty(STDOUT_FILENO) == 1; }
bool StderrIsTerminal() { return isatty(STDERR_FILENO) == 1; }

bool StderrHasColor() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  return StderrIsTerminal() && (no_color == nullptr || *no_color == '\0') &&
         (term == nullptr || std::strcmp(term, "dumb") != 0);
}

std::string OneDecimal(double value) { return absl::StrFormat("%.1f", value); }

std::string HumanBytes(int64_t bytes) {
  const auto n = static_cast<double>(bytes);
  if (bytes < 1'000'000) return absl::StrFormat("%.0f kB", n / 1e3);
  if (bytes < 10'000'000) return absl::StrFormat("%.1f MB", n / 1e6);
  if (bytes < 1'000'000'000) return absl::StrFormat("%.0f MB", n / 1e6);
  return absl::StrFormat("%.1f GB", n / 1e9);
}

std::string HumanCount(int64_t n) {
  const auto x = static_cast<double>(n);
  if (n < 1000) return absl::StrCat(n);
  if (n < 1'000'000) return absl::StrFormat("%.1fk", x / 1e3);
  if (n < 1'000'000'000) return absl::StrFormat("%.1f M", x / 1e6);
  if (n < 1'000'000'000'000) return absl::StrFormat("%.2f B", x / 1e9);
  return absl::StrFormat("%.4f T", x / 1e12);
}

int64_t ResidentBytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr) return 0;
  long long total = 0, resident = 0;
  const int read = std::fscanf(file, "%lld %lld", &total, &resident);
  std::fclose(file);
  return read == 2 ? resident * sysconf(_SC_PAGESIZE) : 0;
}

int64_t PeakResidentBytes() {
  rusage usage;
  return ::getrusage(RUSAGE_SELF, &usage) == 0 ? static_cast<int64_t>(usage.ru_maxrss) * 1024 : 0;
}

int64_t MajorPageFaults() {
  rusage usage{};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_majflt : 0;
}

StatusLine::StatusLine(bool enabled) : enabled_(enabled) { SetBeforeLogLine(&EraseLine); }

void StatusLine::Show(const std::string& text) {
  if (!enabled_) return;
  const LogPause pause;
  std::fprintf(stderr, StderrHasColor() ? "\r\033[K\033[2m%s\033[0m" : "\r\033[K%s", text.c_str());
  std::fflush(stderr);
  line_is_shown = true;
}

void StatusLine::Clear() {
  if (!enabled_) return;
  const LogPause pause;
  EraseLine();
}

void Note(const std::string& text) {
  std::fprintf(stderr, StderrHasColor() ? "\033[2m%s\033[0m\n" : "%s\n", text.c_str());
}

}  // namespace omni::cli
