#include "cluster/tasks/child_process.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string_view>
#include <utility>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>

#include "cluster/tasks/walk_folder.h"
#include "engine/base/random.h"
#include "engine/base/system_error.h"
#include "store/file/files.h"

// That header of glibc 2.36 does not say that its functions are C's.
extern "C" {
#include <sys/pidfd.h>
}

namespace omni {
namespace {

constexpr char kMark[] = "OMNI_TASK_MARK";
constexpr int kLowestFd = 10;  // so that none of them is one of the four that the child gets
constexpr int64_t kThreadsPerProcess = 16;

struct Fd {
  int fd = -1;
  Fd() = default;
  Fd(const Fd&) = delete;
  ~Fd() { Close(); }
  void Close() {
    if (fd >= 0) ::close(std::exchange(fd, -1));
  }
  int Release() { return std::exchange(fd, -1); }
  bool Move(int low) {
    fd = low < 0 ? -1 : ::fcntl(low, F_DUPFD_CLOEXEC, kLowestFd);
    if (low >= 0) ::close(low);
    return fd >= 0;
  }
};

bool MakePipe(Fd& read, Fd& write) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return false;
  const bool moved = read.Move(ends[0]);
  return write.Move(ends[1]) && moved;
}

std::string ReadSome(const std::string& path) {
  std::string text;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return text;
  char buffer[4096];
  for (ssize_t n; text.size() < (1 << 20) && (n = ::read(fd, buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<size_t>(n));
  ::close(fd);
  return text;
}

bool WriteSome(const std::string& path, const std::string& text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool written = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  ::close(fd);
  return written;
}

// proc(5): what comes after the name, which may have spaces and parentheses of its own.
struct ProcessStat {
  bool over = false;  // only its parent has not asked yet
  bool stopped = false;
  pid_t session = 0;
  uint64_t start = 0;  // clock ticks after the boot; 0: there is no such process
};
ProcessStat StatOf(pid_t pid) {
  const std::string text = ReadSome(absl::StrCat("/proc/", pid, "/stat"));
  const size_t name = text.rfind(')');
  if (name == std::string::npos) return {};
  const std::vector<std::string> words = absl::StrSplit(text.substr(name + 1), ' ', absl::SkipEmpty());
  ProcessStat stat;
  stat.over = !words.empty() && (words[0] == "Z" || words[0] == "X");
  stat.stopped = !words.empty() && (words[0] == "T" || words[0] == "t");
  if (words.size() < 20 || !absl::SimpleAtoi(words[3], &stat.session) ||
      !absl::SimpleAtoi(words[19], &stat.start))
    return {};
  return stat;
}

bool HasMark(pid_t pid, const std::string& mark) {
  const std::string environment = '\0' + ReadSome(absl::StrCat("/proc/", pid, "/environ")) + '\0';
  return environment.find('\0' + absl::StrCat(kMark, "=", mark) + '\0') != std::string::npos;
}

std::vector<pid_t> AllProcesses() {
  std::vector<pid_t> pids;
  DIR* folder = ::opendir("/proc");
  if (folder == nullptr) return pids;
  while (const dirent* entry = ::readdir(folder)) {
    pid_t pid = 0;
    if (absl::SimpleAtoi(entry->d_name, &pid)) pids.push_back(pid);
  }
  ::closedir(folder);
  return pids;
}

// False: it is another process by now, or gone.
bool KillThat(pid_t pid, uint64_t start) {
  const int process = ::pidfd_open(pid, 0);
  if (process < 0) return false;
  const bool same = StatOf(pid).start == start;
  const bool killed = same && ::pidfd_send_signal(process, SIGKILL, nullptr, 0) == 0;
  ::close(process);
  return killed;
}

struct Record {
  std::string mark;
  pid_t pid = -1;
  uint64_t start = 0;
};

// Whoever has the mark, and the session of the process that led it, if it is still that one.
int EndMarked(const Record& record) {
  std::set<pid_t> ended;
  for (int round = 0; round < 1000; ++round) {
    const bool leads = record.pid > 0 && record.start > 0 && StatOf(record.pid).start == record.start;
    bool any = false;
    for (const pid_t pid : AllProcesses()) {
      if (pid == ::getpid()) continue;
      const ProcessStat stat = StatOf(pid);
      if (stat.start == 0 || stat.over) continue;
      if (!(leads && stat.session == record.pid) && !HasMark(pid, record.mark)) continue;
      if (!KillThat(pid, stat.start)) continue;
      any = true;
      ended.insert(pid);
    }
    if (!any) break;
    ::poll(nullptr, 0, 5);
  }
  return static_cast<int>(ended.size());
}

std::string BootId() {
  return std::string(absl::StripAsciiWhitespace(ReadSome("/proc/sys/kernel/random/boot_id")));
}

// Processes and threads of this user, which RLIMIT_NPROC counts.
int64_t UserProcesses() {
  int64_t count = 0;
  const uid_t user = ::getuid();
  for (const pid_t pid : AllProcesses()) {
    const std::string tasks = absl::StrCat("/proc/", pid, "/task");
    struct stat about {};
    if (::stat(tasks.c_str(), &about) != 0 || about.st_uid != user) continue;
    count += static_cast<int64_t>(about.st_nlink) - 2;
  }
  return count;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(const ChildPlace& place,
                                                                  const ChildSpec& spec) {
  auto child = std::unique_ptr<ChildProcess>(new ChildProcess());
  child->place_ = place;
  child->mark_ = RandomHex(32);
  const auto failed = [&](const char* what) { return SystemError(spec.argv[0], what, errno); };

  Fd in_read, in_write, out_read, out_write, err_read, err_write, control, there;
  if (spec.input.has_value()) {
    if (!in_read.Move(::memfd_create("input", MFD_CLOEXEC))) return failed("make its input");
    for (size_t at = 0; at < spec.input->size();) {
      const ssize_t n = ::write(in_read.fd, spec.input->data() + at, spec.input->size() - at);
      if (n < 0) return failed("write its input");
      at += static_cast<size_t>(n);
    }
    ::lseek(in_read.fd, 0, SEEK_SET);
  } else if (!MakePipe(in_read, in_write)) {
    return failed("make its pipes");
  }
  int ends[2];
  if (!MakePipe(out_read, out_write) || !MakePipe(err_read, err_write) ||
      ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return failed("make its pipes");
  const bool moved = control.Move(ends[0]);
  if (!there.Move(ends[1]) || !moved) return failed("make its pipes");
  for (const int fd : {in_write.fd, out_read.fd, err_read.fd, control.fd})
    if (fd >= 0) ::fcntl(fd, F_SETFL, O_NONBLOCK);

  const ChildLimits& limits = spec.limits;
  std::vector<std::string> argv = {place.program};
  const auto add = [&](const char* key, int64_t number) {
    if (number > 0) argv.push_back(absl::StrCat(key, "=", number));
  };
  add("address", limits.address_bytes);
  add("file", limits.disk_bytes);
  add("cpu", limits.cpu_seconds);
  add("files", limits.open_files);
  add("memory", limits.memory_bytes);
  add("processes", limits.processes);
  // The system counts threads too, and those of all that this user runs.
  if (limits.processes > 0) add("user_processes", UserProcesses() + kThreadsPerProcess * limits.processes);
  argv.push_back(absl::StrCat("grace=", limits.grace.count()));
  argv.push_back("--");
  argv.insert(argv.end(), spec.argv.begin(), spec.argv.end());
  std::vector<std::string> environment = spec.environment;
  environment.push_back(absl::StrCat(kMark, "=", child->mark_));
  const auto pointers = [](std::vector<std::string>& words) {
    std::vector<char*> all;
    for (std::string& word : words) all.push_back(word.data());
    all.push_back(nullptr);
    return all;
  };

  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, in_read.fd, 0);
  ::posix_spawn_file_actions_adddup2(&actions, out_write.fd, 1);
  ::posix_spawn_file_actions_adddup2(&actions, err_write.fd, 2);
  ::posix_spawn_file_actions_adddup2(&actions, there.fd, 3);
  ::posix_spawn_file_actions_addchdir_np(&actions, spec.folder.c_str());
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t all, none;
  sigfillset(&all);
  sigemptyset(&none);
  ::posix_spawnattr_setsigdefault(&attributes, &all);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  const int error = ::posix_spawn(&child->pid_, place.program.c_str(), &actions, &attributes,
                                  pointers(argv).data(), pointers(environment).data());
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    child->pid_ = -1;
    return SystemError(place.program, "start it in " + spec.folder, error);
  }
  child->in_ = in_write.Release();
  child->out_ = out_read.Release();
  child->err_ = err_read.Release();
  child->control_ = control.Release();

  // From here on the destructor ends it. It is known before it begins.
  child->start_ = StatOf(child->pid_).start;
  const std::string record = absl::StrCat(child->pid_, " ", child->start_, " ", BootId(), "\n");
  absl::StatusOr<FileWriter> file =
      FileWriter::Create(absl::StrCat(place.folder, "/children/", child->mark_));
  if (!file.ok()) return file.status();
  if (absl::Status s = file->Append(record.data(), static_cast<int64_t>(record.size())); !s.ok()) return s;
  if (!place.control_group.empty()) {
    child->group_ = absl::StrCat(place.control_group, "/omni-", child->mark_);
    const bool made = ::mkdir(child->group_.c_str(), 0755) == 0 &&
                      (limits.memory_bytes == 0 ||
                       WriteSome(child->group_ + "/memory.max", absl::StrCat(limits.memory_bytes))) &&
                      (limits.processes == 0 ||
                       WriteSome(child->group_ + "/pids.max", absl::StrCat(limits.processes + 1))) &&
                      WriteSome(child->group_ + "/cgroup.procs", absl::StrCat(child->pid_));
    if (!made) return SystemError(child->group_, "put a child into this control group", errno);
  }
  if (::send(child->control_, "g", 1, MSG_NOSIGNAL) != 1) return failed("start it");
  return child;
}

ChildProcess::~ChildProcess() {
  Kill();
  for (const auto most = std::chrono::steady_clock::now() + place_.patience;
       pid_ >= 0 && !over_ && std::chrono::steady_clock::now() < most;) {
    pollfd fd = {control_, POLLIN, 0};
    ::poll(&fd, 1, 100);
    ReadEnd();
  }
  if (!over_) Clean(true);
  for (const int fd : {in_, out_, err_, control_})
    if (fd >= 0) ::close(fd);
}

void ChildProcess::CloseIn() {
  if (in_ >= 0) ::close(std::exchange(in_, -1));
}

void ChildProcess::Terminate() {
  if (control_ >= 0) ::send(control_, "t", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}
void ChildProcess::Kill() {
  if (control_ >= 0) ::send(control_, "k", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

std::optional<ChildProcess::End> ChildProcess::ReadEnd() {
  if (over_ || pid_ < 0) return std::nullopt;
  char buffer[256];
  ssize_t n = 0;
  while ((n = ::recv(control_, buffer, sizeof buffer, MSG_DONTWAIT)) > 0)
    line_.append(buffer, static_cast<size_t>(n));
  const bool whole = line_.ends_with('\n');
  if (!whole && n < 0 && (errno == EAGAIN || errno == EINTR)) return std::nullopt;
  End end;
  const std::vector<std::string> words = absl::StrSplit(absl::StripAsciiWhitespace(line_), ' ');
  int status = 0;
  int64_t kilobytes = 0;
  if (whole && words.size() == 3 && words[0] == "failed" && absl::SimpleAtoi(words[1], &end.error)) {
    end.why = words[2];
  } else if (whole && words.size() == 5 && words[0] == "ended" && absl::SimpleAtoi(words[1], &status) &&
             absl::SimpleAtoi(words[2], &end.cpu_ms) && absl::SimpleAtoi(words[3], &kilobytes)) {
    end.exited = WIFEXITED(status);
    end.code = end.exited ? WEXITSTATUS(status) : 0;
    end.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    end.memory_bytes = kilobytes * 1024;
    end.why = words[4];
    // One that ended well met no limit that mattered to it.
    const std::string limit =
        group_.empty() || (end.exited && end.code == 0) ? "" : ControlGroupLimit(group_);
    if (end.why == "program" && !limit.empty()) end.why = limit;
  } else {
    return Abandon();
  }
  Clean(false);
  return end;
}

bool ChildProcess::stopped() const {
  if (over_ || pid_ < 0) return false;
  const ProcessStat stat = StatOf(pid_);
  return stat.start == start_ && stat.stopped;
}

ChildProcess::End ChildProcess::Abandon() {
  End end;
  end.why = "killed";
  // The system ends whatever it likes of a group, which omni-child is in, too.
  if (const std::string limit = group_.empty() ? "" : ControlGroupLimit(group_); !limit.empty())
    end.why = limit;
  Clean(true);
  return end;
}

std::string ControlGroupLimit(const std::string& group) {
  const auto happened = [&](const char* file, absl::string_view event) {
    for (const absl::string_view line : absl::StrSplit(ReadSome(group + file), '\n')) {
      const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
      int64_t times = 0;
      if (words.size() == 2 && words[0] == event && absl::SimpleAtoi(words[1], &times)) return times > 0;
    }
    return false;
  };
  if (happened("/memory.events", "oom_kill") || happened("/memory.events", "oom_group_kill")) return "memory";
  return happened("/pids.events", "max") ? "processes" : "";
}

void ChildProcess::Clean(bool leftovers) {
  over_ = true;
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  if (!group_.empty()) WriteSome(group_ + "/cgroup.kill", "1");
  if (leftovers) EndMarked({mark_, pid_, start_});
  ::waitpid(pid_, nullptr, 0);
  if (!group_.empty()) ::rmdir(group_.c_str());
  ::unlink(absl::StrCat(place_.folder, "/children/", mark_).c_str());
}

absl::StatusOr<int> EndLeftovers(const ChildPlace& place) {
  namespace fs = std::filesystem;
  int ended = 0;
  std::error_code error;
  for (const char* name : {"/children", "/runs"}) {
    fs::create_directories(place.folder + name, error);
    if (error) return SystemError(place.folder + name, "create the directory", error.value());
  }
  const std::string boot = BootId();
  fs::directory_iterator child(place.folder + "/children", error);
  for (; !error && child != fs::directory_iterator(); child.increment(error)) {
    Record record{child->path().filename().string(), -1, 0};
    const std::vector<std::string> words =
        absl::StrSplit(absl::StripAsciiWhitespace(ReadSome(child->path().string())), ' ');
    if (words.size() == 3 && words[2] == boot && absl::SimpleAtoi(words[0], &record.pid) &&
        absl::SimpleAtoi(words[1], &record.start))
      ended += EndMarked(record);
    std::error_code ignored;
    if (!place.control_group.empty())
      ::rmdir(absl::StrCat(place.control_group, "/omni-", record.mark).c_str());
    fs::remove(child->path(), ignored);
  }
  if (error) return SystemError(place.folder + "/children", "read", error.value());
  fs::directory_iterator run(place.folder + "/runs", error);
  for (; !error && run != fs::directory_iterator(); run.increment(error)) RemoveFolder(run->path().string());
  if (error) return SystemError(place.folder + "/runs", "read", error.value());
  return ended;
}

absl::StatusOr<std::string> MakeWorkFolder(const ChildPlace& place) {
  std::string path = place.folder + "/runs/XXXXXX";
  if (::mkdtemp(path.data()) == nullptr)
    return SystemError(place.folder + "/runs", "make a folder in it", errno);
  return path;
}

}  // namespace omni
