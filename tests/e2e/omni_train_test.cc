// The training program as a user meets it: exit codes, one line for every error, interruptions, full devices,
// mounts, memory limits. What needs no program of its own is in tests/engine/train.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "tests/cli/process.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Output;
using testing::ProcessOptions;
using testing::RunProcess;
using ::testing::StartsWith;
using Words = std::vector<std::string>;

class OmniTrain : public ::testing::Test {
 protected:
  OmniTrain() { Write("text.txt", Text(4000)); }

  static std::string Text(int words) {
    std::string text;
    for (int i = 0; i < words; ++i) text += i % 3 == 0 ? "torus " : i % 7 == 0 ? "route.\n" : "expert ";
    return text;
  }
  std::string Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(temp_ / name, std::ios::binary) << bytes;
    return temp_ / name;
  }
  // A short run; flags that are given again replace these.
  Words Command(const std::map<std::string, std::string>& flags) const {
    std::map<std::string, std::string> all = {{"--preset", "tiny"},     {"--data", temp_ / "text.txt"},
                                              {"--out", temp_ / "run"}, {"--vocab", "300"},
                                              {"--steps", "4"},         {"--shared-steps", "4"},
                                              {"--batch", "2"},         {"--seq", "32"},
                                              {"--save-every", "0"},    {"--threads", "1"}};
    for (const auto& [flag, value] : flags) all[flag] = value;
    Words words = {OMNI_TRAIN_PROGRAM};
    for (const auto& [flag, value] : all) {
      words.push_back(flag);
      if (!value.empty()) words.push_back(value);
    }
    return words;
  }
  Output Run(const std::map<std::string, std::string>& flags, const ProcessOptions& options = {}) const {
    return RunProcess(Command(flags), options);
  }
  // Through a shell: "$@" is the run.
  Output RunInShell(const std::string& script, const std::map<std::string, std::string>& flags = {}) const {
    Words words = {"/bin/sh", "-c", script, "sh"};
    const Words command = Command(flags);
    words.insert(words.end(), command.begin(), command.end());
    return RunProcess(words);
  }
  static void ExpectOneLine(const Output& output, int code, const std::string& part) {
    EXPECT_EQ(output.exit_code, code) << output.err;
    EXPECT_THAT(output.err, HasSubstr(part));
    EXPECT_THAT(output.err, StartsWith("omni train: "));
    EXPECT_EQ(std::count(output.err.begin(), output.err.end(), '\n'), 1) << output.err;
    EXPECT_EQ(output.out, "");
  }

  testing::TempDir temp_;
};

// Every flag in every spelling: tests/engine/train/flags_test.cc.
TEST_F(OmniTrain, TakesAPresetJoinedToItsFlagOrFromTheEnvironment) {
  for (const bool joined : {true, false}) {
    const std::string out = temp_ / (joined ? "joined" : "variable");
    Words words = Command({{"--out", out}});
    const auto preset = std::find(words.begin(), words.end(), "--preset");
    words.erase(preset, preset + 2);
    ProcessOptions options;
    if (joined) {
      words.push_back("--preset=tiny");
    } else {
      options.env = {{"OMNI_PRESET", "tiny"}};
    }
    const Output output = RunProcess(words, options);
    ASSERT_EQ(output.exit_code, 0) << output.err;
    std::ifstream in(out + "/checkpoint/config.json");
    const std::string config{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    EXPECT_THAT(config, HasSubstr("\"preset\": \"tiny\""));
    EXPECT_THAT(config, HasSubstr("\"d\": 64"));
  }
}

TEST_F(OmniTrain, SaysWrongUsageInOneLineWithItsFlagOrVariable) {
  ExpectOneLine(Run({{"--steps", "many"}}), 2, "--steps: 'many'");
  ProcessOptions options;
  options.env = {{"OMNI_LR", "2"}};
  ExpectOneLine(Run({}, options), 2, "OMNI_LR: '2'");
}

// Every file and place that a flag may name: tests/engine/train/input_files_test.cc.
TEST_F(OmniTrain, RefusesInOneLineWhatCannotWorkBeforeItTrains) {
  ASSERT_EQ(mkfifo((temp_ / "pipe").c_str(), 0600), 0);
  ExpectOneLine(Run({{"--data", temp_ / "pipe"}}), 1, temp_ / "pipe");
  ExpectOneLine(
      Run({{"--valid", Write("valid.txt", "twenty-one bytes here")}, {"--eval-every", "4"}, {"--plot", ""}}),
      1, "--valid: the validation text has");
  EXPECT_FALSE(fs::exists(temp_ / "run/checkpoint"));
}

// In a mount namespace of its own.
TEST_F(OmniTrain, TrainsInAnEmptyMountPointAndRefusesOneWhereTheCheckpointGoes) {
  const std::string mounts = "unshare --user --map-root-user --mount sh -c '";
  if (RunProcess({"/bin/sh", "-c", mounts + "mount -t tmpfs none " + temp_.path() + "'"}).exit_code != 0) {
    GTEST_SKIP() << "no mount namespaces here";
  }
  fs::create_directories(temp_ / "run");
  const Output inside = RunInShell(mounts + "mount -t tmpfs none " + (temp_ / "run") + " && \"$@\" && ls " +
                                   (temp_ / "run/checkpoint") + "' sh \"$@\"");
  EXPECT_EQ(inside.exit_code, 0) << inside.err;
  EXPECT_THAT(inside.out, HasSubstr("model.safetensors"));
  fs::create_directories(temp_ / "run/checkpoint");
  const Output refused =
      RunInShell(mounts + "mount -t tmpfs none " + (temp_ / "run/checkpoint") + " && \"$@\"' sh \"$@\"",
                 {{"--data", temp_ / "missing"}});
  ExpectOneLine(refused, 1, "checkpoint: something is mounted here");
  const Output read_only =
      RunInShell(mounts + "mount -t tmpfs -o ro none " + (temp_ / "run") + " && \"$@\"' sh \"$@\"",
                 {{"--data", temp_ / "missing"}});
  ExpectOneLine(read_only, 1, temp_ / "run");
}

TEST_F(OmniTrain, ReportsAFullDevice) {
  const Output help = RunInShell("exec \"$1\" --help >/dev/full");
  ExpectOneLine(help, 1, "standard output: cannot be written");
  // What is said meanwhile may be lost; the run is not.
  EXPECT_EQ(RunInShell("exec \"$@\" 2>/dev/full").exit_code, 0);
  EXPECT_TRUE(fs::exists(temp_ / "run/checkpoint/model.safetensors"));
}

TEST_F(OmniTrain, SaysInOneLineThatMemoryIsShort) {
  const Output output =
      RunInShell("ulimit -v 4000000; exec \"$@\"", {{"--width", "16384"}, {"--preset", "tiny"}});
  EXPECT_EQ(output.exit_code, 1);
  ASSERT_FALSE(output.err.empty());
  const size_t last = output.err.rfind('\n', output.err.size() - 2);
  EXPECT_THAT(output.err.substr(last == std::string::npos ? 0 : last + 1),
              AnyOf(HasSubstr("memory"), HasSubstr("Cannot allocate")));
  EXPECT_THAT(output.err, Not(HasSubstr("terminate called")));
}

TEST_F(OmniTrain, EndsWithACheckpointWhenItIsInterrupted) {
  for (const int signal : {SIGINT, SIGTERM}) {
    SCOPED_TRACE(signal);
    const std::string out = temp_ / std::to_string(signal);
    Words words = Command({{"--out", out}, {"--steps", "1000000"}, {"--shared-steps", "1000000"}});
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const pid_t child = fork();
    if (child == 0) {
      std::vector<char*> argv;
      for (std::string& word : words) argv.push_back(word.data());
      argv.push_back(nullptr);
      dup2(ends[1], STDERR_FILENO);
      ::signal(signal, SIG_DFL);
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(ends[1]);
    // The signal is sent once the first step is told, of a million.
    std::string said;
    char buffer[4096];
    bool sent = false;
    for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) {
      said.append(buffer, static_cast<size_t>(n));
      if (!sent && said.find("step ") != std::string::npos) sent = kill(child, signal) == 0;
    }
    close(ends[0]);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 130) << said;
    EXPECT_THAT(said, HasSubstr("omni train: interrupted; saved after step "));
    EXPECT_TRUE(fs::exists(out + "/checkpoint/model.safetensors"));
  }
}

}  // namespace
}  // namespace omni
