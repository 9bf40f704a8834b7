// The training program, killed outright again and again and resumed each time, ends with the bytes of one
// never stopped.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

class TrainKill : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ofstream text(temp_ / "text.txt");
    std::mt19937 random(5);
    for (int i = 0; i < 4000; ++i) {
      static const char* const kWords[] = {"torus ", "expert ", "decay ", "state ", "layer ", "route.\n"};
      text << kWords[random() % 6];
    }
  }

  // Goes on if there is something to go on from.
  pid_t Start(const std::string& out) const {
    const bool resume =
        fs::exists(temp_ / (out + "/checkpoint")) || fs::exists(temp_ / (out + "/checkpoint.old"));
    std::vector<std::string> args = {
        OMNI_TRAIN_PROGRAM,  "--preset=tiny",    "--vocab=300",      "--steps=60",
        "--shared-steps=20", "--expert-every=2", "--batch=4",        "--seq=32",
        "--threads=1",       "--save-every=2",   "--dropout=0.1",    "--lattice=2,2,2",
        "--region=2,2,1",    "--data",           temp_ / "text.txt", "--out",
        temp_ / out};
    if (resume) args.push_back("--resume");
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      const int log = open((temp_ / (out + ".err")).c_str(), O_CREAT | O_APPEND | O_WRONLY, 0600);
      dup2(log, 2);
      execv(argv[0], argv.data());
      _exit(127);
    }
    return child;
  }
  // What happens in the run's directory and in the checkpoint that is being written.
  class Events {
   public:
    explicit Events(std::string run) : run_(std::move(run)) { Watch(run_); }
    ~Events() { close(inotify_); }

    // Waits for that many more events: false if the program ended before.
    bool Wait(pid_t child, int count) {
      const int process = static_cast<int>(syscall(SYS_pidfd_open, child, 0));
      EXPECT_GE(process, 0);
      while (count > 0) {
        pollfd polls[2] = {{process, POLLIN, 0}, {inotify_, POLLIN, 0}};
        if (poll(polls, 2, -1) < 0 || polls[1].revents == 0) break;
        count -= Read(count);
      }
      close(process);
      return count <= 0;
    }
    // Forgets those that nobody waited for.
    void Drop() {
      pollfd poll_fd = {inotify_, POLLIN, 0};
      while (poll(&poll_fd, 1, 0) > 0) Read(1 << 30);
    }

   private:
    void Watch(const std::string& folder) const {
      // A folder may be gone by now.
      inotify_add_watch(inotify_, folder.c_str(), IN_CREATE | IN_DELETE | IN_MOVE | IN_CLOSE_WRITE);
    }
    // At most so many; how many there were.
    int Read(int at_most) {
      alignas(inotify_event) char buffer[sizeof(inotify_event) + NAME_MAX + 1];
      const ssize_t n = read(inotify_, buffer, sizeof buffer);
      if (n <= 0) ADD_FAILURE() << "inotify";
      int seen = 0;
      for (ssize_t at = 0; at < n;) {
        const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
        if ((event->mask & IN_CREATE) != 0 && std::string(event->name) == "checkpoint.tmp") {
          Watch(run_ + "/checkpoint.tmp");
        }
        at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
        ++seen;
      }
      return std::min(seen, at_most);
    }

    const std::string run_;
    const int inotify_ = inotify_init1(IN_CLOEXEC);
  };
  std::string Weights(const std::string& out) const {
    std::ifstream in(temp_ / (out + "/checkpoint/model.safetensors"), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }
  std::vector<int64_t> LoggedSteps(const std::string& out) const {
    std::vector<int64_t> steps;
    std::ifstream in(temp_ / (out + "/log.jsonl"));
    for (std::string line; std::getline(in, line);) {
      const nlohmann::json entry = nlohmann::json::parse(line);
      if (entry.contains("step")) steps.push_back(entry["step"].get<int64_t>());
    }
    return steps;
  }

  testing::TempDir temp_;
};

TEST_F(TrainKill, EndsWithTheBytesOfARunNeverStopped) {
  int status = -1;
  const pid_t never_stopped = Start("whole");
  ASSERT_EQ(waitpid(never_stopped, &status, 0), never_stopped);
  ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  fs::create_directory(temp_ / "killed");
  Events events(temp_ / "killed");
  std::mt19937 random(11);
  int kills = 0;
  bool ended = false;
  for (int attempt = 0; attempt < 40 && !ended; ++attempt) {
    const pid_t child = Start("killed");
    // Some saves further, at any event of one: while files are written, renamed, removed, or after it.
    if (events.Wait(child, 60 + static_cast<int>(random() % 80))) kill(child, SIGKILL);
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ended = !WIFSIGNALED(status);  // it may just have ended by itself
    kills += !ended;
    events.Drop();
  }
  ASSERT_TRUE(ended);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_GE(kills, 3);
  ASSERT_FALSE(Weights("whole").empty());
  EXPECT_TRUE(Weights("whole") == Weights("killed"));
  EXPECT_EQ(LoggedSteps("killed"), (std::vector<int64_t>{20, 40, 60}));
}

}  // namespace
}  // namespace omni
