#include "engine/train/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace omni::train {
namespace {

// Columns of the terminal that stderr is; 80 if it does not say.
size_t Width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

bool CanBeWrittenOver() {
  const char* term = std::getenv("TERM");
  return isatty(STDERR_FILENO) == 1 && term != nullptr && *term != '\0' && std::strcmp(term, "dumb") != 0;
}

}  // namespace

Progress::Progress() : live_(CanBeWrittenOver()) {}

Progress::~Progress() {
  if (shown_) std::fputc('\n', stderr);
}

void Progress::Show(const std::string& line) {
  if (!live_) {
    std::fprintf(stderr, "%s\n", line.c_str());
    return;
  }
  // The last column stays free: a character in it would begin the next line.
  std::fprintf(stderr, "\r\033[K%s", line.substr(0, Width() - 1).c_str());
  std::fflush(stderr);
  shown_ = true;
}

void Progress::Say(const std::string& line) {
  std::fprintf(stderr, "%s%s\n", shown_ ? "\n" : "", line.c_str());
  shown_ = false;
}

}  // namespace omni::train
