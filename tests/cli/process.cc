#include "tests/cli/process.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

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

Pipe MakeTerminal(int columns) {
  const int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0)
    GiveUp("no pseudo-terminal (is /dev/pts mounted?)");
  const int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (slave < 0) GiveUp("no pseudo-terminal (is /dev/pts mounted?)");
  winsize size{};
  size.ws_col = static_cast<unsigned short>(columns);
  if (ioctl(master, TIOCSWINSZ, &size) != 0) GiveUp("no pseudo-terminal's size");
  return {master, slave};
}

using Clock = std::chrono::steady_clock;

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& s : strings) pointers.push_back(s.data());
  pointers.push_back(nullptr);
  return pointers;
}

// Of the child; whatever fails ends it with 126.
void Prepare(const ProcessOptions& options, const Pipe& in, const Pipe& out, const Pipe& err) {
  const auto must = [](bool done) {
    if (!done) _exit(126);
  };
  must(dup2(in.read, STDIN_FILENO) >= 0 && dup2(err.write, STDERR_FILENO) >= 0);
  switch (options.stdout_to) {
    case ProcessOptions::Stdout::kClosed:
      close(STDOUT_FILENO);
      break;
    case ProcessOptions::Stdout::kFile: {
      const int file = open(options.stdout_file.c_str(), O_WRONLY | O_CLOEXEC);
      must(file >= 0 && dup2(file, STDOUT_FILENO) >= 0);
      break;
    }
    case ProcessOptions::Stdout::kRead:
    case ProcessOptions::Stdout::kWithoutReader:
      must(dup2(out.write, STDOUT_FILENO) >= 0);
      break;
  }
  if (!options.group.empty()) {
    const int file = open((options.group + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC);
    must(file >= 0 && write(file, "0", 1) == 1);
    close(file);
  }
  // Whatever ran the tests may have left files open, which would count.
  must(close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) == 0);
  if (options.most_open_files > 0) {
    const rlimit most = {options.most_open_files, options.most_open_files};
    must(setrlimit(RLIMIT_NOFILE, &most) == 0);
  }
  if (options.most_processes > 0) {
    const rlimit most = {options.most_processes, options.most_processes};
    must(setrlimit(RLIMIT_NPROC, &most) == 0);
  }
  if (options.user != 0)
    must(setgroups(0, nullptr) == 0 && setgid(options.user) == 0 && setuid(options.user) == 0);
  if (options.one_core) {
    cpu_set_t all, one;
    must(sched_getaffinity(0, sizeof all, &all) == 0);
    int first = 0;
    while (!CPU_ISSET(first, &all)) ++first;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    must(sched_setaffinity(0, sizeof one, &one) == 0);
  }
  for (int signal : {SIGINT, SIGPIPE, SIGTERM}) ::signal(signal, SIG_DFL);
}

// What the program writes, until it has closed all that it writes to, with the signals that are due
// meanwhile.
class Reader {
 public:
  Reader(const ProcessOptions& options, pid_t child, int out, int err)
      : options_(options), child_(child), polls_{{out, POLLIN, 0}, {err, POLLIN, 0}} {}

  void Read(Output& result) {
    std::array<std::string*, 2> texts = {&result.out, &result.err};
    while (polls_[0].fd >= 0 || polls_[1].fd >= 0) {
      if (poll(polls_.data(), polls_.size(), Wait()) < 0) continue;
      SendWhatIsDue(result);
      for (size_t i = 0; i < polls_.size(); ++i) {
        if (polls_[i].fd < 0 || polls_[i].revents == 0) continue;
        std::array<char, 4096> buffer;
        const ssize_t n = read(polls_[i].fd, buffer.data(), buffer.size());
        if (n > 0) {
          texts[i]->append(buffer.data(), static_cast<size_t>(n));
          if (i == 0 && options_.signal_after_output != 0 && !std::exchange(sent_after_output_, true))
            kill(child_, options_.signal_after_output);
        } else {  // a terminal whose other side is closed reads as an error
          close(polls_[i].fd);
          polls_[i].fd = -1;
        }
      }
    }
  }

 private:
  // Milliseconds until something is due.
  int Wait() const {
    const auto due =
        options_.signal != 0 && !sent_ ? begin_ + options_.signal_after : begin_ + options_.limit;
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(due - Clock::now()).count();
    return static_cast<int>(std::max<int64_t>(0, left) + 1);
  }

  void SendWhatIsDue(Output& result) {
    const auto now = Clock::now();
    if (options_.signal != 0 && !sent_ && now - begin_ >= options_.signal_after) {
      sent_ = true;
      kill(child_, options_.signal);
    }
    if (now - begin_ >= options_.limit && !std::exchange(killed_, true)) {
      result.err += "[the test killed it: it ran too long]";
      kill(child_, SIGKILL);
    }
  }

  const ProcessOptions& options_;
  const pid_t child_;
  const Clock::time_point begin_ = Clock::now();
  std::vector<pollfd> polls_;
  bool sent_ = false, sent_after_output_ = false, killed_ = false;
};

}  // namespace

Output RunProcess(const std::vector<std::string>& arguments, const ProcessOptions& options) {
  std::vector<std::string> argv = arguments, env;
  if (!options.env.contains("PATH")) env.push_back("PATH=/usr/bin:/bin");
  if (!options.env.contains("TERM")) env.push_back("TERM=xterm");
  for (const auto& [name, value] : options.env) env.push_back(name + "=" + value);
  std::vector<char*> argv_pointers = Pointers(argv), env_pointers = Pointers(env);
  const Pipe in = MakePipe(), out = MakePipe(),
             err = options.terminal ? MakeTerminal(options.columns) : MakePipe();
  if (options.stdout_to == ProcessOptions::Stdout::kWithoutReader) close(out.read);
  const pid_t child = fork();
  if (child < 0) GiveUp("fork");
  if (child == 0) {
    Prepare(options, in, out, err);
    execve(argv_pointers[0], argv_pointers.data(), env_pointers.data());
    _exit(127);
  }
  close(in.read);
  close(out.write);
  close(err.write);
  // Inputs of these tests fit into a pipe.
  const bool fed =
      options.stdin_text.empty() || write(in.write, options.stdin_text.data(), options.stdin_text.size()) ==
                                        static_cast<ssize_t>(options.stdin_text.size());
  if (!options.stdin_stays_open) close(in.write);

  Output result;
  const bool reads = options.stdout_to != ProcessOptions::Stdout::kWithoutReader;
  Reader(options, child, reads ? out.read : -1, err.read).Read(result);
  int status = 0;
  waitpid(child, &status, 0);
  if (options.stdin_stays_open) close(in.write);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (!fed) result.err += "[the test could not write all of stdin]";
  return result;
}

}  // namespace omni::testing
