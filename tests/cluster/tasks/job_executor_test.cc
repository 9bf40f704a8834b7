// Omni's own programs as tasks, over the folders that they may use.
#include "cluster/tasks/job_executor.h"

#include <filesystem>

#include <gmock/gmock.h>

#include "tests/cluster/tasks/children_fixture.h"

namespace omni::testing {
namespace {

using ::testing::HasSubstr;

class JobExecutorTest : public ChildrenTest {
 protected:
  void SetUp() override {
    ChildrenTest::SetUp();
    for (const char* name : {"data", "own", "other"}) std::filesystem::create_directory(temp_ / name);
    std::filesystem::create_symlink(temp_ / "other", temp_ / "data/link");
  }
  bool May(std::vector<std::string> arguments) {
    return CheckArguments(arguments, {temp_ / "data"}, temp_ / "own").ok();
  }
  TaskOutcome Run(const std::string& verb, const std::vector<std::string>& arguments) {
    omni::tasks::v1::Work work;
    work.mutable_job()->set_verb(verb);
    for (const std::string& argument : arguments) work.mutable_job()->add_arguments(argument);
    attempt_ = std::make_unique<RecordedAttempt>(Task(work));
    JobConfig jobs;
    jobs.program.limits = Limits();
    jobs.verbs = {"eval", "train"};
    jobs.folders = {temp_ / "data"};
    return JobExecutor(jobs, temp_ / "bin", place_).Run(*attempt_);
  }

  std::unique_ptr<RecordedAttempt> attempt_;
};

TEST_F(JobExecutorTest, ArgumentsMayNameWhatIsInTheFoldersAndNothingElse) {
  const std::string data = temp_ / "data", other = temp_ / "other";
  EXPECT_TRUE(May({"-m", data + "/model", "--steps", "100", "--text", data + "/a," + data + "/b", "--json"}));
  EXPECT_TRUE(May({"--out=" + data + "/new/run", "run", "sub/folder", "./x", "-c", "5", "--lr=1e-3"}));
  for (const std::string& word :
       {other + "/x", std::string("/etc/passwd"), data + "/../other/x", data + "/link/x", data + "x/y",
        std::string("../own2/x"), std::string(".."), std::string("~/x"), std::string("~"), "--out=" + other,
        data + "/a," + other + "/b", data + "/a:" + other + "/b", "-m" + data + "/model",
        std::string("a\0b", 3), std::string("/")}) {
    EXPECT_FALSE(May({word})) << word;
    EXPECT_FALSE(May({"-m", word})) << word;
  }
}

TEST_F(JobExecutorTest, TheVerbsAreProgramsOfThisBuild) {
  std::filesystem::create_directory(temp_ / "bin");
  Script("bin/omni", "#!/bin/sh\necho omni \"$@\"\n");
  Script("bin/omni-train", "#!/bin/sh\necho train \"$@\"\nexit 3\n");
  const std::string model = temp_ / "data/m";
  EXPECT_THAT(Run("eval", {"-m", model}).result, HasSubstr("\"exit_code\":0"));
  EXPECT_EQ(attempt_->Stream("stdout"), "omni eval -m " + model + "\n");
  EXPECT_EQ(Run("train", {"--out", model}).error, "exit");
  EXPECT_EQ(attempt_->Stream("stdout"), "train --out " + model + "\n");
  EXPECT_EQ(Run("pack", {}).error, "invalid");
  EXPECT_EQ(Run("eval", {"-m", "/etc"}).error, "invalid");
}

}  // namespace
}  // namespace omni::testing
