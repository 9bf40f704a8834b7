// Runs on a device, computed by the same source on this CPU: their files are those of the other trainer.
#include "engine/train/device/device_trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "engine/train/run_state.h"
#include "tests/engine/train/run_fixture.h"

namespace omni::train {
namespace {

class DeviceRunTest : public TrainRun {
 protected:
  TrainSettings Settings(const std::string& out) const {
    TrainSettings s = SmallRouted(out, RouteFrom::kAddress);
    s.dropout = s.balance = 0;
    s.shared_steps = s.part_region = s.part_member = s.part_own = 0;
    s.expert_every = 1;
    s.config.r = 8;
    return s;
  }
  static absl::Status OnDevice(const TrainSettings& s) { return TrainOnDevice(s, MakeHostStep, nullptr); }
  double LastLoss(const std::string& run) const {
    std::ifstream log(Path(run + "/log.jsonl"));
    double loss = 0;
    for (std::string line; std::getline(log, line);) loss = nlohmann::json::parse(line).value("loss", loss);
    return loss;
  }
};

TEST_F(DeviceRunTest, ARunGoesOnWhereItWasStopped) {
  ASSERT_EQ(OnDevice(Settings("whole")), absl::OkStatus());
  TrainSettings first = Settings("cut"), then = Settings("cut");
  first.stop_at = 5;
  ASSERT_EQ(OnDevice(first), absl::OkStatus());
  then.resume = true;
  ASSERT_EQ(OnDevice(then), absl::OkStatus());
  ASSERT_GT(Weights(Settings("whole")).size(), 100'000u);
  EXPECT_EQ(Weights(then), Weights(Settings("whole")));
  EXPECT_EQ(ReadRunState(Path("cut"))->step, 12);
}

TEST_F(DeviceRunTest, ItLearns) {
  TrainSettings s = Settings("run");
  s.steps = 40;
  s.lr = 1e-2;
  ASSERT_EQ(OnDevice(s), absl::OkStatus());
  EXPECT_LT(LastLoss("run"), 3.0);  // 5.7 is the logarithm of the vocabulary
}

TEST_F(DeviceRunTest, EitherTrainerGoesOnWithTheOthersCheckpoint) {
  TrainSettings first = Settings("a"), then = Settings("a");
  first.stop_at = 5;
  then.resume = true;
  ASSERT_EQ(OnDevice(first), absl::OkStatus());
  ASSERT_EQ(Train(then, nullptr), absl::OkStatus());
  EXPECT_EQ(ReadRunState(Path("a"))->step, 12);
  first.out = then.out = Path("b");
  ASSERT_EQ(Train(first, nullptr), absl::OkStatus());
  ASSERT_EQ(OnDevice(then), absl::OkStatus());
  EXPECT_EQ(ReadRunState(Path("b"))->step, 12);
  // From the same weights and moments they learn the same.
  first.out = then.out = Path("c");
  ASSERT_EQ(Train(first, nullptr), absl::OkStatus());
  ASSERT_EQ(Train(then, nullptr), absl::OkStatus());
  EXPECT_NEAR(LastLoss("b"), LastLoss("c"), 0.05);
}

TEST_F(DeviceRunTest, WhatADeviceDoesNotKnowIsRefusedByName) {
  const auto refused = [&](auto change) {
    TrainSettings s = Settings("no");
    change(s);
    const absl::Status status = OnDevice(s);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(refused([](TrainSettings& s) { s.dropout = 0.1; }), ::testing::HasSubstr("--dropout"));
  EXPECT_THAT(refused([](TrainSettings& s) { s.expert_every = 4; }), ::testing::HasSubstr("--expert-every"));
  EXPECT_THAT(refused([](TrainSettings& s) { s.part_own = 4; }), ::testing::HasSubstr("--part-own"));
  EXPECT_THAT(refused([](TrainSettings& s) { s.config.r = 4; }), ::testing::HasSubstr("--rank"));
  EXPECT_FALSE(std::filesystem::exists(Path("no")));
}

}  // namespace
}  // namespace omni::train
