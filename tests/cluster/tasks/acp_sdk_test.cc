// An agent that is made with the Agent Client Protocol's own library in Node, unmodified.
#include <filesystem>

#include <gmock/gmock.h>

#include "cluster/tasks/acp_executor.h"
#include "tests/cluster/tasks/children_fixture.h"

namespace omni::testing {
namespace {

using ::testing::HasSubstr;
using Stop = TaskAttempt::Stop;

class AcpSdkTest : public ChildrenTest {
 protected:
  void SetUp() override {
    ChildrenTest::SetUp();
    const std::string folder = ACP_SDK;
    for (const char* node : {"/usr/bin/node", "/usr/local/bin/node"})
      if (std::filesystem::exists(node)) agent_.program.argv = {node, folder + "/agent.mjs"};
    if (agent_.program.argv.empty()) GTEST_SKIP() << "SKIPPED: there is no node in /usr/bin";
    if (!std::filesystem::exists(folder + "/node_modules/.installed"))
      GTEST_SKIP() << "SKIPPED: the package is not installed: npm or the network is missing";
    agent_.program.limits = Limits();
    agent_.program.limits.grace = std::chrono::seconds(30);
  }
  TaskOutcome Run(const std::string& message) {
    omni::tasks::v1::Work work;
    work.mutable_agent()->set_agent("clerk");
    work.mutable_agent()->set_message(message);
    attempt_ = std::make_unique<RecordedAttempt>(Task(work));
    attempt_->on_told = [this](const auto& told) {
      if (told.back().data == "waits") attempt_->SetStop(Stop::kCancelled);
    };
    return AcpExecutor("clerk", agent_, place_).Run(*attempt_);
  }

  AgentConfig agent_;
  std::unique_ptr<RecordedAttempt> attempt_;
};

TEST_F(AcpSdkTest, APromptIsAnsweredAndPermissionsAreTheConfigurations) {
  const TaskOutcome outcome = Run("may I");
  EXPECT_EQ(outcome.result, "may I: no") << outcome.error << " " << outcome.message;
  EXPECT_EQ(attempt_->Stream("session"), "from the library");
  std::string progress;
  for (const auto& told : attempt_->told())
    if (told.what == "progress") progress += told.data;
  EXPECT_THAT(progress, HasSubstr("\"title\":\"counts\""));
  agent_.allow = true;
  EXPECT_EQ(Run("may I").result, "may I: yes");
}

TEST_F(AcpSdkTest, ATurnIsCancelled) {
  const TaskOutcome outcome = Run("wait");
  EXPECT_EQ(outcome.error, "cancelled") << outcome.message;
}

}  // namespace
}  // namespace omni::testing
