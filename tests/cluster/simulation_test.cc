// Whole clusters in one thread, from one seed each: clean without a planted fault, and not with one.
#include "tests/testing/simulation/simulation.h"

#include <array>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "engine/base/log_output.h"

namespace omni::simulation {
namespace {

std::string Replay(uint64_t seed) { return absl::StrCat("scripts/faults --seed ", seed, " --trace"); }

class SimulationTest : public ::testing::Test {
 protected:
  // What goes wrong is what they are about.
  void SetUp() override {
    ConfigureLog({.level = LogLevel::kError});
    SetLogSink(&silence_);
  }
  void TearDown() override {
    SetLogSink(nullptr);
    ConfigureLog({});
  }

 private:
  class Silence : public LogSink {
    void Write(const LogRecord&) override {}
  } silence_;
};

TEST_F(SimulationTest, TenThousandSeedsHoldAndReachEveryRareBranch) {
  FaultCounts faults{};
  std::array<int64_t, static_cast<size_t>(Mark::kCount)> marks{};
  for (uint64_t seed = 1; seed <= 10'000; ++seed) {
    const SimulationResult result = Simulate(seed);
    ASSERT_EQ(result.failure, "") << "replay with: " << Replay(seed);
    for (size_t i = 0; i < faults.size(); ++i) faults[i] += result.faults[i];
    for (size_t i = 0; i < marks.size(); ++i) marks[i] += result.marks[i];
  }
  for (size_t i = 0; i < faults.size(); ++i)
    EXPECT_GT(faults[i], 0) << NameOf(static_cast<FaultKind>(i)) << " never befell a cluster";
  for (size_t i = 0; i < marks.size(); ++i)
    EXPECT_GT(marks[i], 0) << NameOf(static_cast<Mark>(i)) << " was never reached";
}

TEST_F(SimulationTest, ASeedIsTheWholeRun) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    const SimulationResult once = Simulate(seed), again = Simulate(seed);
    EXPECT_EQ(once.events, again.events) << seed;
    EXPECT_EQ(once.tokens, again.tokens) << seed;
    EXPECT_EQ(once.simulated, again.simulated) << seed;
    EXPECT_EQ(once.faults, again.faults) << seed;
    EXPECT_EQ(once.marks, again.marks) << seed;
  }
}

class PlantedFaultTest : public SimulationTest, public ::testing::WithParamInterface<Plant> {};

TEST_P(PlantedFaultTest, IsFoundWithinAThousandSeeds) {
  for (uint64_t seed = 1; seed <= 1000; ++seed) {
    const SimulationResult result = Simulate(seed, {.plant = GetParam()});
    if (result.failure.empty()) continue;
    RecordProperty("seed", std::to_string(seed));
    RecordProperty("failure", result.failure);
    EXPECT_EQ(Simulate(seed).failure, "") << "the seed fails without the planted fault, too";
    return;
  }
  FAIL() << "it is not found";
}

std::vector<Plant> Plants() {
  std::vector<Plant> plants;
  for (int p = 1; p < static_cast<int>(Plant::kCount); ++p) plants.push_back(static_cast<Plant>(p));
  return plants;
}

INSTANTIATE_TEST_SUITE_P(All, PlantedFaultTest, ::testing::ValuesIn(Plants()),
                         [](const auto& param) { return std::string(NameOf(param.param)).substr(1); });

}  // namespace
}  // namespace omni::simulation
