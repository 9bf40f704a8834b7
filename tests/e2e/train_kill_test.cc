// The training program, killed outright again and again and resumed each time, ends with the bytes of one
// never stopped.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

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

  pid_t Start(const std::string& out, bool resume) const {
    std::vector<std::string> args = {OMNI_TRAIN_PROGRAM,
                                     "--preset",
                                     "tiny",
                                     "--data",
                                     temp_ / "text.txt",
                                     "--out",
                                     temp_ / out,
                                     "--vocab",
                                     "300",
                                     "--steps",
                                     "120",
                                     "--shared-steps",
                                     "40",
                                     "--expert-every",
                                     "2",
                                     "--batch",
                                     "4",
                                     "--seq",
                                     "32",
                                     "--threads",
                                     "1",
                                     "--save-every",
                                     "2",
                                     "--dropout",
                                     "0.1"};
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
  static bool Exited(pid_t child, int* status) { return waitpid(child, status, WNOHANG) == child; }
  // Changes with every checkpoint.
  ino_t Checkpoint(const std::string& out) const {
    struct stat s {};
    return stat((temp_ / (out + "/checkpoint/train.safetensors")).c_str(), &s) == 0 ? s.st_ino : 0;
  }
  std::string Weights(const std::string& out) const {
    std::ifstream in(temp_ / (out + "/checkpoint/model.safetensors"), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }

  testing::TempDir temp_;
};

TEST_F(TrainKill, EndsWithTheBytesOfARunNeverStopped) {
  int status = -1;
  ASSERT_EQ(waitpid(Start("whole", false), &status, 0) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0,
            true);
  std::mt19937 random(11);
  int kills = 0;
  bool ended = false;
  for (int attempt = 0; attempt < 40 && !ended; ++attempt) {
    const pid_t child = Start(
        "killed", fs::exists(temp_ / "killed/checkpoint") || fs::exists(temp_ / "killed/checkpoint.old"));
    // Some checkpoints further, then anywhere in a step or in the next save.
    ino_t last = Checkpoint("killed");
    for (int seen = 0; seen < 9 && !ended;) {
      const ino_t now = Checkpoint("killed");
      if (now != 0 && now != last) {
        ++seen;
        last = now;
      }
      ended = Exited(child, &status);
      std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
    if (ended) break;
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 12000));
    kill(child, SIGKILL);
    ASSERT_EQ(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status)) {
      ++kills;
    } else {
      ended = true;  // it had just finished
    }
  }
  ASSERT_TRUE(ended);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_GE(kills, 3);
  ASSERT_FALSE(Weights("whole").empty());
  EXPECT_TRUE(Weights("whole") == Weights("killed"));
}

}  // namespace
}  // namespace omni
