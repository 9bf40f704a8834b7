// The log of a run through kills, resumptions and numbers that JSON cannot say.
#include "engine/train/run_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <string>

#include "engine/train/plot.h"
#include "tests/testing/temp_dir.h"

namespace omni::train {
namespace {

using ::testing::HasSubstr;

class RunLogTest : public ::testing::Test {
 protected:
  void Write(const std::string& text) const { std::ofstream(path_, std::ios::binary) << text; }
  std::string Read() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }
  // What is left of the log for a run that goes on after the step, with a line that it adds.
  std::string After(const std::string& text, int64_t step) const {
    Write(text);
    absl::StatusOr<RunLog> log = RunLog::Open(path_);
    EXPECT_TRUE(log.ok()) << log.status();
    EXPECT_TRUE(log->Cut(step).ok());
    EXPECT_TRUE(log->Append({{"step", step + 20}}).ok());
    return Read();
  }

  testing::TempDir temp_;
  const std::string path_ = temp_ / "log.jsonl";
};

TEST_F(RunLogTest, LosesTheStepsThatComeAgain) {
  const std::string head = "{\"command\":\"omni-train\"}\n{\"step\":20}\n{\"step\":40}\n";
  EXPECT_EQ(After(head + "{\"step\":60}\n{\"step\":80}\n", 40), head + "{\"step\":60}\n");
  EXPECT_EQ(After(head + "{\"step\":60}\n{\"step\":8", 40), head + "{\"step\":60}\n");
  EXPECT_EQ(After(head, 50), head + "{\"step\":70}\n");
}

TEST_F(RunLogTest, LosesALastLineThatWasNotWrittenToItsEnd) {
  const std::string head = "{\"command\":\"omni-train\"}\n{\"step\":20}\n";
  EXPECT_EQ(After(head + "{\"step\":4", 40), head + "{\"step\":60}\n");
  EXPECT_EQ(After(head + "{\"step\":40}", 40), head + "{\"step\":60}\n");
  EXPECT_EQ(After(head + "{\"st\n", 40), head + "{\"step\":60}\n");
  // A run before this one joined a torn line and the next; what is in the middle stays.
  EXPECT_EQ(After("{\"st{\"step\":20}\n" + head, 40), "{\"st{\"step\":20}\n" + head + "{\"step\":60}\n");
  EXPECT_EQ(After("[1]\nnull\n" + head, 40), "[1]\nnull\n" + head + "{\"step\":60}\n");
}

TEST_F(RunLogTest, BeginsEmptyWithANewRun) { EXPECT_EQ(After("{\"step\":20}\n{\"st", 0), "{\"step\":20}\n"); }

TEST_F(RunLogTest, LeavesOutWhatJsonCannotSay) {
  absl::StatusOr<RunLog> log = RunLog::Open(path_);
  ASSERT_TRUE(log.ok()) << log.status();
  const double nan = std::nan(""), infinite = std::numeric_limits<double>::infinity();
  ASSERT_TRUE(log->Append({{"loss", nan}, {"rate", infinite}, {"low", -infinite}, {"step", 1}}).ok());
  ASSERT_TRUE(log->Append({{"command", "omni-train --out \xff\xfe"}}).ok());
  EXPECT_EQ(Read(), "{\"step\":1}\n{\"command\":\"omni-train --out \xef\xbf\xbd\xef\xbf\xbd\"}\n");
}

TEST_F(RunLogTest, IsHeldByOneTrainerAtATime) {
  {
    const absl::StatusOr<RunLog> first = RunLog::Open(path_);
    ASSERT_TRUE(first.ok()) << first.status();
    EXPECT_THAT(std::string(RunLog::Open(path_).status().message()), HasSubstr("another trainer"));
  }
  EXPECT_TRUE(RunLog::Open(path_).ok());
}

TEST_F(RunLogTest, RefusesWhatIsNoRegularFile) {
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_THAT(std::string(RunLog::Open(path_).status().message()), HasSubstr("not a regular file"));
  EXPECT_FALSE(RunLog::Open(temp_.path()).ok());
}

TEST_F(RunLogTest, IsPlottedWhateverStandsInIt) {
  Write(
      "{\"command\":\"omni-train\"}\n{\"step\":20,\"tokens\":640,\"loss\":null}\n"
      "{\"step\":40,\"tokens\":1280,\"loss\":2.5,\"valid_nats_per_token\":null}\n"
      "{\"step\":60,\"tokens\":\"many\",\"loss\":2}\n[3]\n{\"step\":80,\"tokens\":2560,\"loss\":2.25}\n{"
      "\"st");
  const std::string svg = temp_ / "plot.svg";
  const absl::Status drawn = PlotLog(path_, svg);
  ASSERT_TRUE(drawn.ok()) << drawn;
  std::ifstream in(svg);
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  EXPECT_THAT(text, HasSubstr("<polyline"));
  EXPECT_EQ(text.find("nan"), std::string::npos);
  EXPECT_THAT(text, HasSubstr("</svg>"));
}

}  // namespace
}  // namespace omni::train
