#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <filesystem>

#include "store/model/model.h"
#include "store/pack/pack.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/temp_dir.h"

extern char** environ;

namespace omni {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TempDir;
using ::testing::UnorderedElementsAre;

std::vector<std::string> Names(const std::string& dir) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir)) names.push_back(entry.path().filename());
  return names;
}

// The exit status as waitpid gives it.
int PackUntilStep(const std::string& checkpoint, const std::string& dir, int step) {
  std::string program = PACK_UNTIL_STEP, number = absl::StrCat(step);
  std::string source = checkpoint, target = dir;
  char* argv[] = {program.data(), source.data(), target.data(), number.data(), nullptr};
  pid_t child = 0;
  if (::posix_spawn(&child, program.c_str(), nullptr, nullptr, argv, environ) != 0) return -1;
  int status = -1;
  return ::waitpid(child, &status, 0) == child ? status : -1;
}

class PackCrash : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(testing::WriteRandomCheckpoint(checkpoint_, testing::SmallConfig(), 11).ok());
    options_.max_pack_bytes = 16384;
    ASSERT_TRUE(PackModel(checkpoint_, temp_ / "whole", options_).ok());
    auto model = OpenModel(temp_ / "whole");
    ASSERT_TRUE(model.ok()) << model.status();
    hash_ = model->hash();
    fs::remove_all(temp_ / "whole");
  }
  // Nothing there, or the whole model.
  void ExpectNoneOrWhole(const std::string& dir) {
    if (!fs::exists(dir)) return;
    auto model = OpenModel(dir);
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ(model->hash(), hash_);
  }

  TempDir temp_;
  std::string checkpoint_ = temp_ / "checkpoint";
  PackOptions options_;
  std::string hash_;
};

TEST_F(PackCrash, KilledAtAnyStepLeavesNoModelOrAWholeOne) {
  constexpr int kEnough = 1000;
  int step = 0, kills_with_model = 0;
  for (; step < kEnough; ++step) {
    const int status = PackUntilStep(checkpoint_, temp_ / "m", step);
    ExpectNoneOrWhole(temp_ / "m");
    if (WIFEXITED(status)) {
      ASSERT_EQ(WEXITSTATUS(status), 0);
      break;
    }
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
    if (fs::exists(temp_ / "m")) {
      ++kills_with_model;
      fs::remove_all(temp_ / "m");
    }
  }
  EXPECT_GT(step, 12);
  EXPECT_LT(step, kEnough);
  EXPECT_EQ(kills_with_model, 1);  // between the rename and the parent's fsync
  EXPECT_TRUE(fs::exists(temp_ / "m"));
  EXPECT_THAT(Names(temp_.path()), UnorderedElementsAre("checkpoint", "m"));
}

TEST_F(PackCrash, AnErrorAtAnyStepLeavesNothingBehind) {
  for (int step = 0;; ++step) {
    int left = step;
    std::string failed;
    options_.step_hook = [&](const std::string& what) {
      if (left-- != 0) return absl::OkStatus();
      failed = what;
      return absl::UnavailableError("the disk went away");
    };
    const absl::Status status = PackModel(checkpoint_, temp_ / "m", options_);
    if (failed.empty()) {
      ASSERT_TRUE(status.ok()) << status;
      break;
    }
    ASSERT_EQ(status.message(), "the disk went away") << failed;
    ExpectNoneOrWhole(temp_ / "m");
    fs::remove_all(temp_ / "m");
    ASSERT_THAT(Names(temp_.path()), UnorderedElementsAre("checkpoint")) << failed;
  }
  ExpectNoneOrWhole(temp_ / "m");
}

TEST_F(PackCrash, AFileThatCannotGrowIsACleanError) {
  struct rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = ::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  for (const rlim_t bytes : {100, 5000, 20000}) {
    small.rlim_cur = bytes;
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    const absl::Status status = PackModel(checkpoint_, temp_ / "m", options_);
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("File too large"));
    EXPECT_THAT(Names(temp_.path()), UnorderedElementsAre("checkpoint"));
  }
  ::signal(SIGXFSZ, old_handler);
}

}  // namespace
}  // namespace omni
