// The training run as a whole: it learns, it resumes to the same bytes, and it refuses what it cannot use.
#include <gtest/gtest.h>

#include <ATen/Parallel.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <nlohmann/json.hpp>

#include "engine/train/optimizer.h"
#include "engine/train/trainer.h"

namespace omni::train {
namespace {

namespace fs = std::filesystem;

class TrainRun : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "omni-train-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    std::ofstream text(dir_ / "text.txt");
    uint64_t x = 1;
    for (int i = 0; i < 3000; ++i) {  // words from a small grammar: something to learn
      x = x * 6364136223846793005ULL + 1442695040888963407ULL;
      static const char* const kWords[] = {"torus ", "expert ", "decay ", "state ", "layer ", "route.\n"};
      text << kWords[(x >> 33) % 6];
    }
  }
  void TearDown() override { fs::remove_all(dir_); }

  TrainSettings Small(const std::string& out) const {
    TrainSettings s;
    s.config = *Preset("tiny");
    s.config.vocab = 300;
    s.data = {(dir_ / "text.txt").string()};
    s.out = (dir_ / out).string();
    s.steps = 12;
    s.batch = 4;
    s.tokens = 32;
    s.memory = 15;
    s.warmup = 4;
    s.dropout = 0.1;
    s.smoothness = 0.01;
    s.shared_steps = 5;
    s.reset_every = 3;
    s.threads = 1;
    return s;
  }
  static std::string Bytes(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }
  static std::vector<nlohmann::json> Log(const TrainSettings& s) {
    std::vector<nlohmann::json> lines;
    std::ifstream in(fs::path(s.out) / "log.jsonl");
    for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  fs::path dir_;
};

TEST_F(TrainRun, ResumedRunEndsWithTheSameBytesAsOneNeverStopped) {
  const TrainSettings whole = Small("whole");
  ASSERT_TRUE(Train(whole).ok());
  for (const int64_t cut : {3, 5, 8}) {  // before, at and after the experts part
    TrainSettings parts = Small("parts" + std::to_string(cut));
    parts.stop_at = cut;
    ASSERT_TRUE(Train(parts).ok());
    parts.stop_at = 0;
    parts.resume = true;
    ASSERT_TRUE(Train(parts).ok());
    EXPECT_EQ(Bytes(fs::path(whole.out) / "checkpoint/model.safetensors"),
              Bytes(fs::path(parts.out) / "checkpoint/model.safetensors"));
  }
}

TEST_F(TrainRun, LearnsAndLogsWhatItDid) {
  TrainSettings s = Small("run");
  s.steps = 60;
  s.dropout = 0;
  s.lr = 5e-3;
  s.tune = 0.2;
  s.eval_every = 20;
  s.plot = true;
  ASSERT_TRUE(Train(s).ok());
  const auto log = Log(s);
  ASSERT_GE(log.size(), 4u);
  EXPECT_EQ(log[0]["seed"], 1);
  EXPECT_GT(log[1]["valid_nats_per_token"], log.back()["valid_nats_per_token"]);
  EXPECT_LT(log.back()["valid_nats_per_token"], 0.6 * std::log(300));
  EXPECT_GT(log.back()["experts_used"], 16);
  EXPECT_NE(Bytes(fs::path(s.out) / "plot.svg").find("<polyline"), std::string::npos);
}

TEST_F(TrainRun, RefusesWhatItCannotUse) {
  TrainSettings s = Small("refused");
  s.data = {(dir_ / "missing.txt").string()};
  EXPECT_EQ(Train(s).code(), absl::StatusCode::kNotFound);
  std::ofstream(dir_ / "empty.txt").close();
  s.data = {(dir_ / "empty.txt").string()};
  EXPECT_NE(std::string(Train(s).message()).find("empty"), std::string::npos);
  std::ofstream(dir_ / "binary.txt") << std::string("text\0more", 9);
  s.data = {(dir_ / "binary.txt").string()};
  EXPECT_NE(std::string(Train(s).message()).find("zero byte at offset 4"), std::string::npos);
  std::ofstream(dir_ / "cut.txt.xz") << "\xfd"
                                        "7zXZ";
  s.data = {(dir_ / "cut.txt.xz").string()};
  EXPECT_EQ(Train(s).code(), absl::StatusCode::kDataLoss);
  std::ofstream(dir_ / "short.txt") << "abc";
  s.data = {(dir_ / "short.txt").string()};
  EXPECT_NE(std::string(Train(s).message()).find("fewer than one segment"), std::string::npos);
}

TEST_F(TrainRun, RefusesToOverwriteARunAndToResumeADifferentOne) {
  TrainSettings s = Small("run");
  s.stop_at = 2;
  ASSERT_TRUE(Train(s).ok());
  EXPECT_EQ(Train(s).code(), absl::StatusCode::kAlreadyExists);
  s.resume = true;
  s.stop_at = 3;
  s.batch = 5;
  EXPECT_FALSE(Train(s).ok());
  s.batch = 4;
  s.config.d = 96;
  EXPECT_FALSE(Train(s).ok());
}

TEST_F(TrainRun, GoesOnFromThePreviousCheckpointWhenTheReplacementWasCut) {
  TrainSettings s = Small("run");
  s.stop_at = 4;
  ASSERT_TRUE(Train(s).ok());
  const fs::path run(s.out);
  fs::rename(run / "checkpoint", run / "checkpoint.old");  // killed between the two renames
  fs::create_directories(run / "checkpoint.tmp");
  s.stop_at = 0;
  s.resume = true;
  EXPECT_TRUE(Train(s).ok());
  EXPECT_FALSE(fs::exists(run / "checkpoint.old"));
  EXPECT_FALSE(fs::exists(run / "checkpoint.tmp"));
}

TEST(LearningRateSchedule, WarmsUpAndFallsAsCosineOrLinearly) {
  const Schedule cosine{.steps = 1000, .warmup = 100, .peak = 1, .end_share = 0.1, .cooldown = 0};
  EXPECT_DOUBLE_EQ(LearningRate(49, cosine), 0.5);
  EXPECT_DOUBLE_EQ(LearningRate(100, cosine), 1.0);
  EXPECT_NEAR(LearningRate(550, cosine), 0.55, 1e-12);
  EXPECT_NEAR(LearningRate(1000, cosine), 0.1, 1e-12);
  const Schedule constant{.steps = 1000, .warmup = 100, .peak = 1, .end_share = 0, .cooldown = 0.2};
  EXPECT_DOUBLE_EQ(LearningRate(799, constant), 1.0);
  EXPECT_NEAR(LearningRate(900, constant), 0.5, 1e-12);
}

}  // namespace
}  // namespace omni::train
