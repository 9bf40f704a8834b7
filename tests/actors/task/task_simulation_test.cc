// A task server under faults, in one thread, from one seed each: clean without a planted fault, and not with
// one.
#include "tests/testing/task_simulation/task_simulation.h"

#include <array>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "engine/base/log_output.h"

namespace omni::simulation {
namespace {

class TaskSimulationTest : public ::testing::Test {
 protected:
  // What goes wrong is what they are about.
  void SetUp() override { SetLogSink(&silence_); }
  void TearDown() override { SetLogSink(nullptr); }

 private:
  class Silence : public LogSink {
    void Write(const LogRecord&) override {}
  } silence_;
};

TEST_F(TaskSimulationTest, TwoThousandSeedsHoldAndReachEveryRareBranch) {
  TaskFaultCounts faults{};
  std::array<int64_t, static_cast<size_t>(TaskMark::kCount)> marks{};
  for (uint64_t seed = 1; seed <= 2'000; ++seed) {
    const TaskSimulationResult result = SimulateTasks(seed);
    ASSERT_EQ(result.failure, "") << "replay with: scripts/faults --tasks --seed " << seed << " --trace";
    for (size_t i = 0; i < faults.size(); ++i) faults[i] += result.faults[i];
    for (size_t i = 0; i < marks.size(); ++i) marks[i] += result.marks[i];
  }
  for (size_t i = 0; i < faults.size(); ++i)
    EXPECT_GT(faults[i], 0) << NameOf(static_cast<TaskFault>(i)) << " never befell a server";
  for (size_t i = 0; i < marks.size(); ++i)
    EXPECT_GT(marks[i], 0) << NameOf(static_cast<TaskMark>(i)) << " was never reached";
}

TEST_F(TaskSimulationTest, ASeedIsTheWholeRun) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const TaskSimulationResult once = SimulateTasks(seed), again = SimulateTasks(seed);
    EXPECT_EQ(once.events, again.events) << seed;
    EXPECT_EQ(once.tasks, again.tasks) << seed;
    EXPECT_EQ(once.faults, again.faults) << seed;
    EXPECT_EQ(once.marks, again.marks) << seed;
  }
}

class PlantedTaskFaultTest : public TaskSimulationTest, public ::testing::WithParamInterface<TaskPlant> {};

TEST_P(PlantedTaskFaultTest, IsFoundWithinAThousandSeeds) {
  for (uint64_t seed = 1; seed <= 1000; ++seed) {
    const TaskSimulationResult result = SimulateTasks(seed, {.plant = GetParam()});
    if (result.failure.empty()) continue;
    RecordProperty("seed", std::to_string(seed));
    RecordProperty("failure", result.failure);
    EXPECT_EQ(SimulateTasks(seed).failure, "") << "the seed fails without the planted fault, too";
    return;
  }
  FAIL() << "it is not found";
}

std::vector<TaskPlant> Plants() {
  std::vector<TaskPlant> plants;
  for (int p = 1; p < static_cast<int>(TaskPlant::kCount); ++p) plants.push_back(static_cast<TaskPlant>(p));
  return plants;
}

INSTANTIATE_TEST_SUITE_P(All, PlantedTaskFaultTest, ::testing::ValuesIn(Plants()),
                         [](const auto& param) { return std::string(NameOf(param.param)).substr(1); });

}  // namespace
}  // namespace omni::simulation
