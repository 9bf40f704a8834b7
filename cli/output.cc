#include "cli/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include <absl/strings/str_cat.h>

namespace omni::cli {
namespace {

int output_error = 0;  // the errno of the first failure; stdout is the process's, and so is this

void Keep(bool done) {
  if (!done && output_error == 0) output_error = errno;
}

}  // namespace

void PrepareOutput() {
  std::signal(SIGPIPE, SIG_IGN);
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
    // Opened the wrong way round, so that using it still fails. The lowest free number is taken: this one.
    const int opened = open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
    if (opened >= 0 && opened != fd) close(opened);
  }
}

void Print(std::string_view text) {
  if (output_error == 0) Keep(std::fwrite(text.data(), 1, text.size(), stdout) == text.size());
}

bool FlushOutput() {
  if (output_error == 0) Keep(std::fflush(stdout) == 0);
  return output_error == 0;
}

absl::Status FinishOutput() {
  FlushOutput();
  Keep(std::fclose(stdout) == 0);  // some file systems tell only now
  if (output_error == 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("standard output: the results cannot be written: ", std::strerror(output_error)));
}

}  // namespace omni::cli
