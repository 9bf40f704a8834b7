// omni-child: starts one program within limits, and ends all that came of it.
//
//     omni-child KEY=NUMBER... -- PROGRAM ARGUMENT...
//
// A program may fork, leave its process group and its session, and ignore what it is asked to do. All that it
// leaves becomes a child of this process (a subreaper), which ends with none left. Descriptor 3 is a socket
// to the server: its end, which comes with the server's, however that ends, is the order to end everything.
// From there come single bytes: g, start; t, ask the program to end; k, end everything. There goes one line:
//
//     failed ERRNO STEP         it could not be started
//     ended STATUS MILLISECONDS KILOBYTES WHY
//
// STATUS as of wait(2), of the program; the processor time of all; the largest memory of any; WHY: "program"
// (by itself), "asked", "memory", "processes".
//
// Keys: address, file, cpu, files (rlimits: bytes, bytes, seconds, descriptors), user_processes (of the
// user), processes, memory (bytes), of all that came of the program, looked at ten times a second; grace
// (milliseconds between t and the end).
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
constexpr int kControl = 3;
constexpr std::chrono::milliseconds kWatch{100}, kKillAgain{5};
constexpr std::chrono::seconds kMostKilling{30};  // what the system itself holds cannot be killed

std::map<std::string, long long> numbers;
long long Number(const char* key, long long otherwise) {
  const auto at = numbers.find(key);
  return at == numbers.end() ? otherwise : at->second;
}

std::string ReadFile(const std::string& path) {
  std::string text;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return text;
  char buffer[4096];
  for (ssize_t n; (n = ::read(fd, buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
  ::close(fd);
  return text;
}

// All that came of this process and is still there.
std::vector<pid_t> Descendants() {
  std::vector<pid_t> all, next = {::getpid()};
  while (!next.empty() && all.size() < 100'000) {
    const pid_t pid = next.back();
    next.pop_back();
    const std::string tasks = "/proc/" + std::to_string(pid) + "/task";
    DIR* folder = ::opendir(tasks.c_str());
    if (folder == nullptr) continue;
    while (const dirent* entry = ::readdir(folder)) {
      if (entry->d_name[0] == '.') continue;
      const std::string children = ReadFile(tasks + "/" + entry->d_name + "/children");
      for (const char* at = children.c_str(); *at != '\0';) {
        char* end = nullptr;
        const long child = std::strtol(at, &end, 10);
        if (end == at) break;
        if (child > 0) {
          all.push_back(static_cast<pid_t>(child));
          next.push_back(static_cast<pid_t>(child));
        }
        at = *end == ' ' ? end + 1 : end;
      }
    }
    ::closedir(folder);
  }
  return all;
}

long long ResidentBytes(const std::vector<pid_t>& pids) {
  long long pages = 0;
  for (const pid_t pid : pids) {
    long long size = 0, resident = 0, shared = 0;
    const std::string statm = ReadFile("/proc/" + std::to_string(pid) + "/statm");
    // Pages that many share, a program's text, are counted once only where they are nobody's own.
    if (std::sscanf(statm.c_str(), "%lld %lld %lld", &size, &resident, &shared) == 3)
      pages += resident - shared;
  }
  return pages * ::sysconf(_SC_PAGESIZE);
}

void SetLimit(int what, const char* key) {
  const auto at = numbers.find(key);
  if (at == numbers.end()) return;
  rlimit limit{};
  if (::getrlimit(what, &limit) != 0) return;
  // What is lower already stays so.
  limit.rlim_max = std::min<rlim_t>(limit.rlim_max, static_cast<rlim_t>(at->second));
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_cur, static_cast<rlim_t>(at->second));
  // SIGXCPU first, a second before there is no choice.
  if (what == RLIMIT_CPU && limit.rlim_cur == limit.rlim_max && limit.rlim_max != RLIM_INFINITY)
    ++limit.rlim_max;
  ::setrlimit(what, &limit);
}

[[noreturn]] void Become(char** argv, int failed) {
  const pid_t keeper = ::getppid();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != keeper) ::_exit(1);
  ::setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  numbers["core"] = 0;
  SetLimit(RLIMIT_CORE, "core");
  SetLimit(RLIMIT_FSIZE, "file");
  SetLimit(RLIMIT_CPU, "cpu");
  SetLimit(RLIMIT_NOFILE, "files");
  SetLimit(RLIMIT_NPROC, "user_processes");
  SetLimit(RLIMIT_AS, "address");
  ::execv(argv[0], argv);
  const int error = errno;
  const ssize_t written = ::write(failed, &error, sizeof error);
  ::_exit(written == sizeof error ? 127 : 126);
}

class Keeper {
 public:
  int Keep(char** argv) {
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    ::sigprocmask(SIG_BLOCK, &child, nullptr);
    ::signal(SIGPIPE, SIG_IGN);
    const int signals = ::signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals < 0) return Fail(errno, "signalfd");
    if (::prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) return Fail(errno, "subreaper");
    char order = 0;
    while (::read(kControl, &order, 1) < 0 && errno == EINTR) {
    }
    if (order != 'g') return 0;  // the server is gone, or has changed its mind
    int failed[2];
    if (::pipe2(failed, O_CLOEXEC) != 0) return Fail(errno, "pipe");
    program_ = ::fork();
    if (program_ < 0) return Fail(errno, "fork");
    if (program_ == 0) Become(argv, failed[1]);
    ::close(failed[1]);
    ::setpgid(program_, program_);
    // The program's ends of pipes are its own, so that their end is seen.
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3; ++fd) ::dup2(null, fd);
    int error = 0;
    if (::read(failed[0], &error, sizeof error) == sizeof error) {
      EndAll();
      return Fail(error, "exec");
    }
    ::close(failed[0]);
    Watch(signals);
    EndAll();
    return Tell();
  }

 private:
  // Until the program has ended, or everything is to.
  void Watch(int signals) {
    const bool looks = numbers.contains("memory") || numbers.contains("processes");
    Clock::time_point look = Clock::now() + kWatch, kill = Clock::time_point::max();
    bool listens = true;
    while (!over_) {
      Clock::time_point next = looks ? std::min(look, kill) : kill;
      const auto wait = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now()).count();
      pollfd fds[2] = {{signals, POLLIN, 0}, {listens ? kControl : -1, POLLIN, 0}};
      const int most =
          next == Clock::time_point::max() ? -1 : static_cast<int>(std::clamp<int64_t>(wait, 0, 60'000));
      if (::poll(fds, 2, most) < 0 && errno != EINTR) return;
      signalfd_siginfo ignored;
      while (::read(signals, &ignored, sizeof ignored) > 0) {
      }
      Reap();
      if (over_) return;
      if (fds[1].revents != 0) {
        char order = 0;
        const ssize_t n = ::read(kControl, &order, 1);
        if (n == 0 || (n > 0 && order == 'k')) {
          why_ = "asked";
          return;
        }
        if (n > 0 && order == 't') {
          why_ = "asked";
          ::kill(-program_, SIGTERM);
          kill = Clock::now() + std::chrono::milliseconds(Number("grace", 5000));
        }
      }
      const Clock::time_point now = Clock::now();
      if (now >= kill) return;
      if (!looks || now < look) continue;
      const std::vector<pid_t> pids = Descendants();
      if (static_cast<long long>(pids.size()) > Number("processes", INT64_MAX)) {
        why_ = "processes";
        return;
      }
      if (ResidentBytes(pids) > Number("memory", INT64_MAX)) {
        why_ = "memory";
        return;
      }
      // Looking takes a hundredth of the time at most.
      look = Clock::now() + std::max<Clock::duration>(kWatch, 100 * (Clock::now() - now));
    }
  }

  // False: there is nobody to wait for any more.
  bool Reap() {
    while (true) {
      int status = 0;
      rusage usage{};
      const pid_t pid = ::wait4(-1, &status, WNOHANG, &usage);
      if (pid == 0) return true;
      if (pid < 0) return errno == EINTR;
      milliseconds_ += (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000LL +
                       (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
      kilobytes_ = std::max<long long>(kilobytes_, usage.ru_maxrss);
      if (pid != program_) continue;
      over_ = true;
      status_ = status;
    }
  }

  void EndAll() {
    const Clock::time_point most = Clock::now() + kMostKilling;
    while (Clock::now() < most) {
      // Once it has been waited for, its number may be another's.
      if (!over_) ::kill(-program_, SIGKILL);
      for (const pid_t pid : Descendants()) ::kill(pid, SIGKILL);
      if (!Reap()) return;
      ::poll(nullptr, 0, static_cast<int>(kKillAgain.count()));
    }
  }

  int Tell() const {
    char line[200];
    const int n =
        std::snprintf(line, sizeof line, "ended %d %lld %lld %s\n", status_, milliseconds_, kilobytes_, why_);
    return ::write(kControl, line, static_cast<size_t>(n)) == n ? 0 : 1;
  }
  static int Fail(int error, const char* step) {
    char line[200];
    const int n = std::snprintf(line, sizeof line, "failed %d %s\n", error, step);
    return ::write(kControl, line, static_cast<size_t>(n)) == n ? 1 : 2;
  }

  pid_t program_ = -1;
  bool over_ = false;
  int status_ = 0;
  long long milliseconds_ = 0, kilobytes_ = 0;
  const char* why_ = "program";
};

}  // namespace

int main(int argc, char** argv) {
  int at = 1;
  for (; at < argc && std::strcmp(argv[at], "--") != 0; ++at) {
    const char* equals = std::strchr(argv[at], '=');
    char* end = nullptr;
    const long long number = equals == nullptr ? 0 : std::strtoll(equals + 1, &end, 10);
    if (equals == nullptr || equals[1] == '\0' || *end != '\0' || number < 0) break;
    numbers[std::string(static_cast<const char*>(argv[at]), equals)] = number;
  }
  if (at + 1 >= argc || std::strcmp(argv[at], "--") != 0 || ::fcntl(kControl, F_SETFD, FD_CLOEXEC) != 0) {
    std::fprintf(stderr, "omni-child is started by omni, not by people\n");
    return 2;
  }
  ::close_range(kControl + 1, ~0U, 0);
  return Keeper().Keep(argv + at + 1);
}
