#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cerrno>
#include <filesystem>
#include <map>

#include "store/file/atomic_dir.h"
#include "store/model/model.h"
#include "store/pack/pack.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/file_names.h"
#include "tests/testing/power_cut.h"
#include "tests/testing/temp_dir.h"

extern char** environ;

namespace omni {
namespace {

namespace fs = std::filesystem;
using testing::DiskRecorder;
using ::testing::Each;
using testing::FileCall;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Names;
using testing::TempDir;
using ::testing::UnorderedElementsAre;

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

// One call of all that could change something fails.
class FailAt : public testing::FileWatcher {
 public:
  explicit FailAt(int left) : left_(left) {}
  int Before(const FileCall& call) override {
    // What cannot be removed stays; everything else must be.
    const bool removes = call.kind == FileCall::Kind::kUnlink || call.kind == FileCall::Kind::kRemoveFolder;
    if (!testing::Changes(call) || removes || left_-- != 0)
      return call.kind == FileCall::Kind::kSync ? kPretend : 0;
    failed = call.path;
    return EIO;
  }
  std::string failed;

 private:
  int left_;
};

class PackCrash : public ::testing::Test {
 protected:
  void SetUp() override {
    ModelConfig config = testing::SmallConfig();
    ASSERT_TRUE(testing::WriteRandomCheckpoint(checkpoint_, config, 11).ok());
    options_.max_pack_bytes = 16384;
    ASSERT_TRUE(PackModel(checkpoint_, temp_ / "whole", options_).ok());
    auto model = OpenModel(temp_ / "whole");
    ASSERT_TRUE(model.ok()) << model.status();
    hash_ = model->hash();
    fs::remove_all(temp_ / "whole");
  }
  // What is wrong with `dir`, where there should be nothing or the whole model.
  std::string Problem(const std::string& dir) {
    if (!fs::exists(dir)) return "";
    auto model = OpenModel(dir);
    if (!model.ok()) return std::string(model.status().message());
    return model->hash() == hash_ ? "" : "another model";
  }

  TempDir temp_, memory_ = TempDir::InMemory();
  std::string checkpoint_ = temp_ / "checkpoint";
  PackOptions options_;
  std::string hash_;
};

TEST_F(PackCrash, KilledAtAnyStepLeavesNoModelOrAWholeOne) {
  constexpr int kEnough = 1000;
  int step = 0, kills_with_model = 0;
  for (; step < kEnough; ++step) {
    const int status = PackUntilStep(checkpoint_, temp_ / "m", step);
    ASSERT_EQ(Problem(temp_ / "m"), "") << "killed at step " << step;
    if (WIFEXITED(status)) {
      ASSERT_EQ(WEXITSTATUS(status), 0);
      break;
    }
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
    if (fs::exists(temp_ / "m")) {
      ++kills_with_model;
      fs::remove_all(temp_ / "m");
    }
    { ASSERT_TRUE(AtomicDir::Begin(temp_ / "m").ok()); }  // the next writer removes what is left
    ASSERT_THAT(Names(temp_.path()), UnorderedElementsAre("checkpoint")) << "killed at step " << step;
  }
  EXPECT_GT(step, 30);
  EXPECT_LT(step, kEnough);
  EXPECT_EQ(kills_with_model, 2);  // after the rename: before the parent's fsync, and before the lock goes
  EXPECT_TRUE(fs::exists(temp_ / "m"));
  EXPECT_THAT(Names(temp_.path()), UnorderedElementsAre("checkpoint", "m"));
}

TEST_F(PackCrash, AnErrorAtAnyStepLeavesNothingBehind) {
  int step = 0, errors = 0;
  for (;; ++step) {
    FailAt fail(step);
    absl::Status status;
    {
      const testing::WatchFiles watch(fail);
      status = PackModel(checkpoint_, memory_ / "m", options_);
    }
    ASSERT_EQ(Problem(memory_ / "m"), "") << fail.failed;
    if (fail.failed.empty()) {
      ASSERT_TRUE(status.ok()) << status;
      break;
    }
    if (status.ok()) {  // RocksDB does without some calls
      ASSERT_TRUE(fs::exists(memory_ / "m"));
    } else {
      ++errors;
      ASSERT_THAT(std::string(status.message()), HasSubstr("Input/output error")) << fail.failed;
      ASSERT_FALSE(absl::IsDataLoss(status)) << status;
    }
    fs::remove_all(memory_ / "m");
    ASSERT_THAT(Names(memory_.path()), IsEmpty()) << fail.failed;
  }
  EXPECT_GT(errors, 30);
}

TEST_F(PackCrash, APowerCutAtAnyStepLeavesNoModelOrAWholeOne) {
  fs::create_directory(temp_ / "disk");
  DiskRecorder disk(temp_ / "disk");
  ASSERT_TRUE(PackModel(checkpoint_, temp_ / "disk/m", options_).ok());
  disk.Promise("packed");
  disk.Stop();
  const auto check = [&](const std::string& dir, const std::vector<std::string>& promises) -> std::string {
    if (!promises.empty() && !fs::exists(dir + "/m")) return "the model is gone";
    return Problem(dir + "/m");
  };
  EXPECT_THAT(ProblemsAfterCuts(disk, memory_ / "scratch", check), IsEmpty());
  // Those of finished pack files only matter to a run that is gone on with (synth_test).
  EXPECT_THAT(NeedlessSyncs(disk, memory_ / "scratch", check), Each(HasSubstr("/packs")));
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
