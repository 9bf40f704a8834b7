#include "tests/testing/namespaces.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_split.h>

namespace omni::testing {

absl::StatusOr<int> MakeNetworkNamespace() {
  absl::StatusOr<int> made = -1;
  std::thread([&made] {  // a thread that has left its namespace is of no other use
    if (::unshare(CLONE_NEWNET) == 0) made = ::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (*made < 0) made = absl::ErrnoToStatus(errno, "cannot make a network namespace");
  })
      .join();
  return made;
}

absl::StatusOr<int> OpenTap(int network_namespace, const std::string& name) {
  absl::StatusOr<int> made = -1;
  std::thread([&] {
    int device = -1;
    ifreq request{};
    request.ifr_flags = IFF_TAP | IFF_NO_PI;
    std::strncpy(request.ifr_name, name.c_str(), IFNAMSIZ - 1);
    if (::setns(network_namespace, CLONE_NEWNET) == 0 &&
        (device = ::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC)) >= 0 &&
        ::ioctl(device, TUNSETIFF, &request) == 0) {
      made = device;
      return;
    }
    made = absl::ErrnoToStatus(errno, "cannot make a TAP device");
    if (device >= 0) ::close(device);
  }).join();
  return made;
}

std::string FindProgram(const std::string& name) {
  const char* path = std::getenv("PATH");
  for (const auto folder :
       absl::StrSplit(absl::StrCat(path == nullptr ? "" : path, ":/usr/sbin:/sbin"), ':')) {
    std::string program = absl::StrCat(folder, "/", name);
    if (::access(program.c_str(), X_OK) == 0) return program;
  }
  return "";
}

absl::Status RunInNamespace(int network_namespace, std::vector<std::string> command) {
  const std::string program = FindProgram(command.front());
  std::vector<char*> argv;
  for (std::string& argument : command) argv.push_back(argument.data());
  argv.push_back(nullptr);
  int said[2];
  if (::pipe2(said, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "no pipe");
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::dup2(said[1], 1);
    ::dup2(said[1], 2);
    if (::setns(network_namespace, CLONE_NEWNET) == 0) ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  ::close(said[1]);
  if (pid < 0) {
    ::close(said[0]);
    return absl::ErrnoToStatus(errno, "cannot fork");
  }
  std::string text;
  char some[1024];
  for (ssize_t n; (n = ::read(said[0], some, sizeof some)) != 0;) {
    if (n > 0) {
      text.append(some, static_cast<size_t>(n));
    } else if (errno != EINTR) {
      break;
    }
  }
  ::close(said[0]);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (status == 0) return absl::OkStatus();
  return absl::UnknownError(absl::StrCat(absl::StrJoin(command, " "), ": ", text.empty() ? "failed" : text));
}

}  // namespace omni::testing
