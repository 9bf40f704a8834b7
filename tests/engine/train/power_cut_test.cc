// A checkpoint that is replaced while the power fails: the run can go on, from the old one or the new.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>

#include "engine/train/run_directory.h"
#include "engine/train/run_log.h"
#include "engine/train/run_state.h"
#include "tests/engine/train/run_fixture.h"
#include "tests/testing/power_cut.h"

namespace omni::train {
namespace {

namespace fs = std::filesystem;
using ::testing::IsEmpty;

TEST_F(TrainRun, GoesOnAfterAPowerCut) {
  TrainSettings s = Small("run");
  s.config.lattice = s.config.region = {1, 1, 1};
  s.config.layers = s.config.attention_period = 2;
  s.config.d = 16;
  s.config.r = 4;
  s.config.vocab = 257;
  s.stop_at = 4;
  ASSERT_TRUE(Train(s).ok());
  std::map<int64_t, std::string> weights = {{4, Weights(s)}};
  s.stop_at = 8;
  s.resume = true;
  testing::DiskRecorder disk(s.out);
  ASSERT_TRUE(Train(s).ok());
  disk.Promise("8");
  disk.Stop();
  weights[8] = Weights(s);

  const auto check = [&](const std::string& dir, const std::vector<std::string>& promises) -> std::string {
    if (const absl::Status st = PrepareRunDirectory(dir, true); !st.ok()) return st.ToString();
    const absl::StatusOr<RunState> state = ReadRunState(dir);
    if (!state.ok()) return state.status().ToString();
    if (!promises.empty() && state->step != 8) return "the saved step is lost";
    TrainSettings cut = s;
    cut.out = dir;
    return weights.contains(state->step) && Weights(cut) == weights[state->step] ? "" : "other weights";
  };
  EXPECT_THAT(testing::ProblemsAfterCuts(disk, Path("scratch"), check), IsEmpty());
}

}  // namespace
}  // namespace omni::train
