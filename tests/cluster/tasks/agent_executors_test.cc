// Agents: over the Agent Client Protocol, and by ZeroClaw's command line.
#include <poll.h>

#include <gmock/gmock.h>

#include "cluster/tasks/acp_executor.h"
#include "cluster/tasks/zeroclaw_executor.h"
#include "tests/cluster/tasks/children_fixture.h"

namespace omni::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Stop = TaskAttempt::Stop;

class AcpExecutorTest : public ChildrenTest {
 protected:
  void SetUp() override {
    ChildrenTest::SetUp();
    agent_.program.argv = {PYTHON, ACP_AGENT};
    agent_.program.limits = Limits();
    if (PYTHON[0] != '/') GTEST_SKIP() << "SKIPPED: there is no Python 3";
  }
  TaskOutcome Run(const std::string& message, const std::string& session = "", Stop stop = Stop::kNo) {
    omni::tasks::v1::Work work;
    work.mutable_agent()->set_agent("clerk");
    work.mutable_agent()->set_message(message);
    work.mutable_agent()->set_session(session);
    attempt_ = std::make_unique<RecordedAttempt>(Task(work));
    if (stop != Stop::kNo)
      attempt_->on_told = [this, stop](const auto& told) {
        if (told.back().data == "waits") attempt_->SetStop(stop);
      };
    return AcpExecutor("clerk", agent_, place_).Run(*attempt_);
  }
  std::string Said(const std::string& message) { return Run(message).result; }
  std::string Error(const std::string& message) {
    const TaskOutcome outcome = Run(message);
    return outcome.error + " " + outcome.message;
  }

  AgentConfig agent_;
  std::unique_ptr<RecordedAttempt> attempt_;
};

TEST_F(AcpExecutorTest, WhatTheAgentSaysIsToldAndIsTheResult) {
  const TaskOutcome outcome = Run("good think tool day");
  EXPECT_EQ(outcome.kind, TaskOutcome::Kind::kSucceeded) << outcome.error << outcome.message;
  EXPECT_EQ(outcome.result, "good day ");
  EXPECT_EQ(attempt_->Stream("text"), "good day ");
  EXPECT_EQ(attempt_->Stream("thoughts"), "hm");
  EXPECT_EQ(attempt_->Stream("session"), "s1");
  std::string progress;
  for (const auto& told : attempt_->told())
    if (told.what == "progress") progress += told.data;
  EXPECT_THAT(progress, HasSubstr(R"("sessionUpdate":"tool_call")"));
}

TEST_F(AcpExecutorTest, PermissionsAreAnsweredAsTheConfigurationSays) {
  EXPECT_EQ(Said("permission"), R"({"optionId": "o-reject_once", "outcome": "selected"})");
  agent_.allow = true;
  EXPECT_EQ(Said("permission"), R"({"optionId": "o-allow_once", "outcome": "selected"})");
}

TEST_F(AcpExecutorTest, FilesAreReadAndWrittenOnlyWhereThatIsAllowedAndInItsFolder) {
  const std::string folder = temp_ / "desk";
  std::filesystem::create_directory(folder);
  std::ofstream(folder + "/a") << "inside";
  std::ofstream(temp_ / "b") << "outside";
  std::filesystem::create_symlink(temp_ / "b", folder + "/link");
  agent_.workspace = folder;
  EXPECT_EQ(Said("read:" + folder + "/a write:" + folder + "/new"), "refusedrefused");
  agent_.files = true;
  EXPECT_EQ(Said("read:" + folder + "/a"), "inside");
  EXPECT_EQ(Said("write:" + folder + "/new read:" + folder + "/new"), "writtenwritten\n");
  for (const std::string& path : {folder + "/../b", folder + "/link", temp_ / "b", std::string("/etc/passwd"),
                                  std::string("a"), folder + "/none", folder})
    EXPECT_EQ(Said("read:" + path), "refused") << path;
  for (const std::string& path : {folder + "/../c", folder + "/link", temp_ / "b", folder + "/none/c"})
    EXPECT_EQ(Said("write:" + path), "refused") << path;
  EXPECT_EQ(Read(temp_ / "b"), "outside");
  EXPECT_EQ(Said("unknown"), "-32601");
}

TEST_F(AcpExecutorTest, ItBeginsInItsWorkspaceOrInAFolderOfItsOwn) {
  EXPECT_THAT(Said("here"), StartsWith(std::filesystem::canonical(temp_ / "state/runs").string() + "/"));
  agent_.workspace = std::filesystem::canonical(temp_.path());
  EXPECT_EQ(Said("here"), agent_.workspace);
}

TEST_F(AcpExecutorTest, StoppingIsSaidInTheProtocolsWordsAndThenByForce) {
  agent_.program.limits.grace = std::chrono::minutes(4);
  EXPECT_EQ(Run("wait", "", Stop::kCancelled).error, "cancelled");
  EXPECT_EQ(attempt_->Stream("text"), "waitscancelled") << "it was told, and heard out";
  EXPECT_EQ(Run("wait", "", Stop::kReturn).kind, TaskOutcome::Kind::kReturned);
  agent_.program.limits.grace = std::chrono::milliseconds(200);
  EXPECT_EQ(Run("deaf", "", Stop::kCancelled).error, "cancelled");
  agent_.program.limits.time = std::chrono::seconds(3);
  EXPECT_THAT(Error("deaf"), StartsWith("time-limit"));
}

TEST_F(AcpExecutorTest, ASessionIsGoneOnWithIfTheAgentCan) {
  EXPECT_EQ(Run("good day", "s7").error, "invalid");
  agent_.program.argv.push_back("loads");
  EXPECT_EQ(Run("good day", "s7").result, "good day ") << "what was told before is not told again";
  EXPECT_EQ(attempt_->Stream("session"), "s7");
}

TEST_F(AcpExecutorTest, ZeroclawsAgentsAreNamedByTheirAlias) {
  agent_.program.argv.push_back("alias");
  EXPECT_EQ(Error("x"), "agent 'no such alias'");
  agent_.alias = "clerk";
  EXPECT_EQ(Said("x"), "x ");
}

TEST_F(AcpExecutorTest, AnAgentThatDoesNotKeepToTheProtocolFailsItsTask) {
  EXPECT_THAT(Error("garbage"), StartsWith("protocol "));
  EXPECT_THAT(Error("flood"), StartsWith("protocol "));
  EXPECT_THAT(Error("surprise"), StartsWith("protocol "));
  EXPECT_THAT(Error("refusal"), StartsWith("refusal "));
  EXPECT_THAT(Error("max_tokens"), StartsWith("agent-limit "));
  EXPECT_EQ(Error("die"), "exit the agent ended before it had answered: no more memory");
  agent_.program.output_bytes = 5;
  EXPECT_THAT(Error("one two three"), StartsWith("output-limit "));
  agent_.program.argv.push_back("old");
  EXPECT_THAT(Error("x"), StartsWith("protocol "));
  agent_.program.argv = {"/no/such/agent"};
  EXPECT_THAT(Error("x"), StartsWith("not-started "));
}

class ZeroclawExecutorTest : public ChildrenTest {
 protected:
  TaskOutcome Run(const std::string& message) {
    agent_.protocol = AgentConfig::Protocol::kZeroclaw;
    agent_.program.limits = Limits();
    omni::tasks::v1::Work work;
    work.mutable_agent()->set_agent("clerk");
    work.mutable_agent()->set_message(message);
    attempt_ = std::make_unique<RecordedAttempt>(Task(work));
    return ZeroclawExecutor("clerk", agent_, place_).Run(*attempt_);
  }

  AgentConfig agent_;
  std::unique_ptr<RecordedAttempt> attempt_;
};

TEST_F(ZeroclawExecutorTest, ItsCommandLineIsZeroclaws) {
  agent_.program.argv = {
      Script("zeroclaw", "#!/bin/sh\nfor word in \"$@\"; do echo \"<$word>\"; done\necho x >&2\n")};
  agent_.alias = "helper";
  EXPECT_EQ(Run("what is\n$(this)?").result, "<agent>\n<-a>\n<helper>\n<-m>\n<what is\n$(this)?>\n");
  EXPECT_EQ(attempt_->Stream("text"), "<agent>\n<-a>\n<helper>\n<-m>\n<what is\n$(this)?>\n");
  EXPECT_EQ(attempt_->Stream("stderr"), "x\n");
  agent_.provider = "local";
  agent_.model = "mini";
  EXPECT_THAT(Run("x").result, HasSubstr("<x>\n<-p>\n<local>\n<--model>\n<mini>\n"));
}

TEST_F(ZeroclawExecutorTest, WhatItCannotDoIsSaid) {
  agent_.program.argv = {Script("zeroclaw", "#!/bin/sh\necho 'no such alias' >&2\nexit 3\n")};
  agent_.alias = "helper";
  TaskOutcome outcome = Run("x");
  EXPECT_EQ(outcome.error + " " + outcome.message, "exit exit code 3: no such alias");
  EXPECT_EQ(Run("").error, "invalid");
  EXPECT_EQ(Run(std::string(1 << 20, 'x')).error, "invalid");
}

}  // namespace
}  // namespace omni::testing
