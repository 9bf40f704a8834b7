#include "cli/terminal.h"

#include <locale.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cwchar>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "engine/base/log_output.h"

namespace omni::cli {
namespace {

constexpr int kUsualColumns = 80;

int StderrColumns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kUsualColumns;
}

// The locale of this thread knows UTF-8 while this lives, whatever the environment says.
class Utf8Locale {
 public:
  Utf8Locale() : locale_(newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr)) {
    if (locale_ != nullptr) before_ = uselocale(locale_);
  }
  ~Utf8Locale() {
    if (locale_ == nullptr) return;
    uselocale(before_);
    freelocale(locale_);
  }
  Utf8Locale(const Utf8Locale&) = delete;
  Utf8Locale& operator=(const Utf8Locale&) = delete;

 private:
  locale_t locale_, before_ = nullptr;
};

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

bool StderrCanErase() {
  const char* term = std::getenv("TERM");
  return StderrIsTerminal() && term != nullptr && *term != '\0' && std::strcmp(term, "dumb") != 0;
}

bool StderrHasColor() {
  const char* no_color = std::getenv("NO_COLOR");
  return StderrCanErase() && (no_color == nullptr || *no_color == '\0');
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

std::string OneLine(const std::string& text) {
  std::string line;
  for (char c : text) {
    if (c != '\n') {
      line += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
    } else if (!line.empty() && line.back() != ' ') {
      line += "; ";
    }
  }
  while (!line.empty() && (line.back() == ' ' || line.back() == ';')) line.pop_back();
  return line;
}

std::string FitColumns(const std::string& text, int columns) {
  const Utf8Locale utf8;
  std::string line, shorter;  // shorter: what leaves a column for the ellipsis
  int width = 0;
  std::mbstate_t state{};
  for (size_t at = 0; at < text.size();) {
    wchar_t character = 0;
    const size_t taken = std::mbrtowc(&character, text.data() + at, text.size() - at, &state);
    const bool valid = taken > 0 && taken <= text.size() - at && wcwidth(character) >= 0;
    if (!valid) state = {};
    const size_t bytes = valid ? taken : 1;
    width += valid ? wcwidth(character) : 1;
    if (width > columns) return columns > 0 ? shorter + "…" : "";
    line += valid ? text.substr(at, bytes) : "?";
    if (width < columns) shorter = line;
    at += bytes;
  }
  return line;
}

StatusLine::StatusLine(bool enabled) : enabled_(enabled) { SetBeforeLogLine(&EraseLine); }

void StatusLine::Show(const std::string& text) {
  if (!enabled_) return;
  const LogPause pause;
  std::fprintf(stderr, StderrHasColor() ? "\r\033[K\033[2m%s\033[0m" : "\r\033[K%s",
               FitColumns(text, StderrColumns() - 1).c_str());
  std::fflush(stderr);
  line_is_shown = true;
}

void StatusLine::Clear() {
  if (!enabled_) return;
  const LogPause pause;
  EraseLine();
}

std::function<void(double share)> ShowShare(StatusLine& line, const std::string& what) {
  line.Show(what);
  if (!line.enabled()) return nullptr;
  using Clock = std::chrono::steady_clock;
  return [&line, what, started = Clock::now(), shown = Clock::now()](double share) mutable {
    const auto now = Clock::now();
    if (now - shown < std::chrono::milliseconds(200)) return;
    shown = now;
    const double seconds = std::chrono::duration<double>(now - started).count();
    line.Show(absl::StrCat(what, "  ", OneDecimal(100 * share), " %, ", OneDecimal(seconds * (1 / share - 1)),
                           " s left"));
  };
}

void Note(const std::string& text) {
  std::fprintf(stderr, StderrHasColor() ? "\033[2m%s\033[0m\n" : "%s\n", OneLine(text).c_str());
}

}  // namespace omni::cli
