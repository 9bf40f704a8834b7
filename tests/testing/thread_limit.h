// A process that may start only so many threads.
#pragma once

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <iterator>
#include <optional>
#include <string>

namespace omni::testing {

// What `body` returns in a child process of a user of its own, who may have `most` processes and threads, and
// those that a sanitizer has started in it.
// Nothing if this user cannot become another one, which only root can; else what is wrong begins with "child:
// ".
inline std::optional<std::string> WithThreadLimit(rlim_t most, const std::function<std::string()>& body) {
  if (geteuid() != 0) return std::nullopt;
  int fds[2];
  if (pipe(fds) != 0) return "child: no pipe";
  const pid_t child = fork();
  if (child < 0) return "child: no fork";
  if (child == 0) {
    namespace fs = std::filesystem;
    const auto threads = std::distance(fs::directory_iterator("/proc/self/task"), fs::directory_iterator());
    const rlim_t all = most + static_cast<rlim_t>(threads) - 1;
    const rlimit limit = {all, all};
    const auto user = static_cast<uid_t>(100'000 + getpid());
    if (setrlimit(RLIMIT_NPROC, &limit) != 0 || setuid(user) != 0) _exit(2);
    const std::string text = body();
    _exit(write(fds[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 3);
  }
  close(fds[1]);
  std::string text(4096, '\0');
  const ssize_t size = read(fds[0], text.data(), text.size());
  close(fds[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (status != 0 || size < 0) return "child: ended with status " + std::to_string(status);
  text.resize(static_cast<size_t>(size));
  return text;
}

}  // namespace omni::testing
