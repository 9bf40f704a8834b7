#include "cluster/tasks/run_child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <limits>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include "cluster/tasks/walk_folder.h"
#include "engine/base/system_error.h"

namespace omni {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kLookAtDisk{200}, kLookAtKeeper{500};
constexpr int kDiskShare = 20;  // looking at it takes at most that part of the time

// What is written to a program that has closed its input is an error here, and no signal.
class PipeSignalBlocked {
 public:
  PipeSignalBlocked() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~PipeSignalBlocked() {
    const timespec at_once{};
    while (::sigtimedwait(&pipe_, nullptr, &at_once) == SIGPIPE) {
    }
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  sigset_t pipe_, before_;
};

class Runner {
 public:
  Runner(TaskAttempt& attempt, std::chrono::milliseconds patience, const ChildSpec& spec, ChildTalk& talk,
         ChildProcess& child)
      : attempt_(attempt), patience_(patience), spec_(spec), talk_(talk), child_(child) {}

  absl::StatusOr<ChildRun> Run() {
    const PipeSignalBlocked blocked;
    const int wake = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake < 0) return SystemError(spec_.argv[0], "wait for it", errno);
    attempt_.SetOnStop([wake] { ::eventfd_write(wake, 1); });
    const Clock::time_point began = Clock::now();
    if (spec_.limits.time.count() > 0) time_ = began + spec_.limits.time;
    if (spec_.limits.disk_bytes > 0) look_ = began + kLookAtDisk;
    keeper_ = began + kLookAtKeeper;
    std::optional<ChildProcess::End> end;
    int failed = 0;  // of what says that there is none
    while (!end.has_value()) {
      Say();
      pollfd fds[5] = {{out_open_ ? child_.out() : -1, POLLIN, 0},
                       {err_open_ ? child_.err() : -1, POLLIN, 0},
                       {child_.control(), POLLIN, 0},
                       {wake, POLLIN, 0},
                       {talk_.to_say.empty() ? -1 : child_.in(), POLLOUT, 0}};
      const auto wait = std::chrono::ceil<std::chrono::milliseconds>(std::min({time_, look_, ask_, keeper_}) -
                                                                     Clock::now());
      if (::poll(fds, 5, static_cast<int>(std::clamp<int64_t>(wait.count(), 0, 60'000))) < 0 &&
          errno != EINTR) {
        failed = errno;
        break;
      }
      if (fds[3].revents != 0) {
        eventfd_t ignored = 0;
        ::eventfd_read(wake, &ignored);
        Stop();
      }
      if (fds[0].revents != 0) out_open_ = Read(child_.out(), &ChildTalk::OnOut);
      if (fds[1].revents != 0) err_open_ = Read(child_.err(), &ChildTalk::OnErr);
      if (fds[2].revents != 0) end = child_.ReadEnd();
      LookAtTime();
      if (!end.has_value() && LookAtKeeper()) end = child_.Abandon();
    }
    // Nobody writes any more; what is in the pipes is the rest.
    for (int i = 0; i < 1024 && out_open_ && Waits(child_.out()); ++i)
      out_open_ = Read(child_.out(), &ChildTalk::OnOut);
    for (int i = 0; i < 1024 && err_open_ && Waits(child_.err()); ++i)
      err_open_ = Read(child_.err(), &ChildTalk::OnErr);
    attempt_.SetOnStop(nullptr);
    ::close(wake);
    if (!end.has_value()) return SystemError(spec_.argv[0], "wait for it", failed);
    return ChildRun{*end, std::move(outcome_),
                    std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - began)};
  }

 private:
  static bool Waits(int fd) {
    pollfd one = {fd, POLLIN, 0};
    return ::poll(&one, 1, 0) > 0;
  }

  // False: that was the last of it.
  bool Read(int fd, std::optional<TaskOutcome> (ChildTalk::*on)(std::string_view)) {
    char buffer[64 << 10];
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    if (n == 0) return false;
    if (deaf_) return true;
    std::optional<TaskOutcome> outcome = (talk_.*on)({buffer, static_cast<size_t>(n)});
    if (outcome.has_value()) Decide(*std::move(outcome));
    if (talk_.finished.has_value() && !deaf_) {
      deaf_ = true;
      if (!outcome_.has_value()) outcome_ = std::move(talk_.finished);
      child_.CloseIn();
      AskToEnd();
    }
    return true;
  }

  void Say() {
    while (!talk_.to_say.empty() && child_.in() >= 0) {
      const ssize_t n = ::write(child_.in(), talk_.to_say.data(), talk_.to_say.size());
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
      if (n < 0) {
        talk_.to_say.clear();  // it does not listen any more
        return child_.CloseIn();
      }
      talk_.to_say.erase(0, static_cast<size_t>(n));
    }
    if (talk_.said_all) child_.CloseIn();
  }

  void Stop() {
    if (outcome_.has_value() || attempt_.stop() == TaskAttempt::Stop::kNo) return;
    outcome_ = StoppedOutcome(attempt_.stop());
    if (talk_.OnStop()) {
      ask_ = Clock::now() + spec_.limits.grace;
    } else {
      AskToEnd();
    }
  }

  void Decide(TaskOutcome outcome) {
    deaf_ = true;
    if (!outcome_.has_value()) outcome_ = std::move(outcome);
    child_.Kill();
    ends_by_ = std::min(ends_by_, Clock::now() + patience_);
  }

  void AskToEnd() {
    child_.Terminate();
    ends_by_ = std::min(ends_by_, Clock::now() + spec_.limits.grace + patience_);
  }

  // True: it keeps nothing any more. A program is its keeper's equal, and may have stopped it.
  bool LookAtKeeper() {
    const Clock::time_point now = Clock::now();
    if (now < keeper_) return false;
    keeper_ = now + std::min<Clock::duration>(kLookAtKeeper, patience_);
    if (!child_.stopped()) {
      stopped_since_.reset();
    } else if (!stopped_since_.has_value()) {
      stopped_since_ = now;
    }
    return now >= ends_by_ || (stopped_since_.has_value() && now >= *stopped_since_ + patience_);
  }

  void LookAtTime() {
    const Clock::time_point now = Clock::now();
    if (now >= ask_) {
      ask_ = Clock::time_point::max();
      AskToEnd();
    }
    if (now >= time_) {
      time_ = Clock::time_point::max();
      if (!outcome_.has_value())
        outcome_ = TaskOutcome::Failed(
            kErrorTimeLimit, absl::StrCat("it ran for longer than ", spec_.limits.time.count(), " ms"));
      AskToEnd();
    }
    if (now >= look_) {
      const int64_t bytes = FolderBytes(spec_.watched.empty() ? spec_.folder : spec_.watched);
      const Clock::duration took = Clock::now() - now;
      look_ = Clock::now() + std::max<Clock::duration>(kLookAtDisk, kDiskShare * took);
      if (bytes > spec_.limits.disk_bytes) {
        look_ = Clock::time_point::max();
        Decide(TaskOutcome::Failed(
            kErrorDiskLimit,
            bytes == std::numeric_limits<int64_t>::max()
                ? "what its folder has cannot be read, or lies too deep"
                : absl::StrCat("its folder has ", bytes, " bytes, and may have ", spec_.limits.disk_bytes)));
      }
    }
  }

  TaskAttempt& attempt_;
  const std::chrono::milliseconds patience_;
  const ChildSpec& spec_;
  ChildTalk& talk_;
  ChildProcess& child_;
  Clock::time_point time_ = Clock::time_point::max(), look_ = time_, ask_ = time_, keeper_ = time_,
                    ends_by_ = time_;
  std::optional<Clock::time_point> stopped_since_;
  std::optional<TaskOutcome> outcome_;
  bool out_open_ = true, err_open_ = true, deaf_ = false;
};

}  // namespace

absl::StatusOr<ChildRun> RunChild(TaskAttempt& attempt, const ChildPlace& place, const ChildSpec& spec,
                                  ChildTalk& talk) {
  const absl::StatusOr<std::unique_ptr<ChildProcess>> child = ChildProcess::Start(place, spec);
  if (!child.ok()) return child.status();
  return Runner(attempt, place.patience, spec, talk, **child).Run();
}

std::optional<TaskOutcome> FailedEnd(const ChildRun& run) {
  const ChildProcess::End& end = run.end;
  if (run.outcome.has_value()) return run.outcome;
  if (end.error != 0)
    return TaskOutcome::Failed(kErrorNotStarted, absl::StrCat(end.why, ": ", std::strerror(end.error)));
  if (end.why == "memory") return TaskOutcome::Failed(kErrorMemoryLimit, "it took more memory than it may");
  if (end.why == "processes")
    return TaskOutcome::Failed(kErrorProcessLimit, "it made more processes than it may");
  if (end.why == "killed") return TaskOutcome::Failed(kErrorSignal, "what kept it was killed, or stopped");
  if (end.signal == SIGXCPU)
    return TaskOutcome::Failed(kErrorCpuLimit, "it took more processor time than it may");
  if (end.signal == SIGXFSZ)
    return TaskOutcome::Failed(kErrorDiskLimit, "it wrote a file that is larger than it may be");
  if (!end.exited)
    return TaskOutcome::Failed(kErrorSignal,
                               absl::StrCat("signal ", end.signal, ", ", ::strsignal(end.signal)));
  if (end.code != 0) return TaskOutcome::Failed(kErrorExit, absl::StrCat("exit code ", end.code));
  return std::nullopt;
}

void LastWords::Add(std::string_view bytes) {
  constexpr size_t kMost = 400;
  last_ += bytes.substr(bytes.size() - std::min(bytes.size(), kMost));
  if (last_.size() > kMost) last_.erase(0, last_.size() - kMost);
}

std::string LastWords::Shown() const {
  const absl::string_view words = absl::StripAsciiWhitespace({last_.data(), last_.size()});
  return words.empty() ? "" : ": " + absl::CHexEscape({words.data(), words.size()});
}

}  // namespace omni
