#include "tests/cli/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>

namespace omni::testing {
namespace {

struct Pipe {
  int read = -1, write = -1;
};

[[noreturn]] void GiveUp(const char* what) {
  std::perror(what);
  std::abort();
}

Pipe MakePipe() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) GiveUp("pipe");
  return {fds[0], fds[1]};
}

Pipe MakeTerminal() {
  const int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0)
    GiveUp("no pseudo-terminal (is /dev/pts mounted?)");
  const int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (slave < 0) GiveUp("no pseudo-terminal (is /dev/pts mounted?)");
  return {master, slave};
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& s : strings) pointers.push_back(s.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

Output RunProcess(const std::vector<std::string>& arguments, const ProcessOptions& options) {
  std::vector<std::string> argv = arguments, env = {"PATH=/usr/bin:/bin", "TERM=xterm"};
  for (const auto& [name, value] : options.env) env.push_back(name + "=" + value);
  std::vector<char*> argv_pointers = Pointers(argv), env_pointers = Pointers(env);
  const Pipe in = MakePipe(), out = MakePipe(), err = options.terminal ? MakeTerminal() : MakePipe();
  const pid_t child = fork();
  if (child < 0) GiveUp("fork");
  if (child == 0) {
    dup2(in.read, STDIN_FILENO);
    dup2(out.write, STDOUT_FILENO);
    dup2(err.write, STDERR_FILENO);
    for (int signal : {SIGINT, SIGPIPE, SIGTERM}) ::signal(signal, SIG_DFL);
    execve(argv_pointers[0], argv_pointers.data(), env_pointers.data());
    _exit(127);
  }
  close(in.read);
  close(out.write);
  close(err.write);
  // Inputs of these tests fit into a pipe.
  const bool fed = write(in.write, options.stdin_text.data(), options.stdin_text.size()) ==
                   static_cast<ssize_t>(options.stdin_text.size());
  close(in.write);

  Output result;
  int signal = options.signal_after_output;
  std::array<pollfd, 2> polls = {pollfd{out.read, POLLIN, 0}, pollfd{err.read, POLLIN, 0}};
  std::array<std::string*, 2> texts = {&result.out, &result.err};
  while (polls[0].fd >= 0 || polls[1].fd >= 0) {
    if (poll(polls.data(), polls.size(), -1) < 0) continue;
    for (size_t i = 0; i < polls.size(); ++i) {
      if (polls[i].fd < 0 || polls[i].revents == 0) continue;
      std::array<char, 4096> buffer;
      const ssize_t n = read(polls[i].fd, buffer.data(), buffer.size());
      if (n > 0) {
        texts[i]->append(buffer.data(), static_cast<size_t>(n));
        if (i == 0 && signal != 0) {
          kill(child, signal);
          signal = 0;
        }
      } else {  // a terminal whose other side is closed reads as an error
        close(polls[i].fd);
        polls[i].fd = -1;
      }
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (!fed) result.err += "[the test could not write all of stdin]";
  return result;
}

}  // namespace omni::testing
