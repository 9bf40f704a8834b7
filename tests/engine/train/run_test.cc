// The training run as a whole: it learns, it resumes to the same bytes, and it refuses what it cannot use.
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <torch/torch.h>

#include <cerrno>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <new>
#include <stdexcept>

#include "engine/train/optimizer.h"
#include "engine/train/schedule.h"
#include "tests/engine/train/run_fixture.h"
#include "tests/testing/seccomp.h"

namespace omni::train {
namespace {

namespace fs = std::filesystem;

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
    EXPECT_EQ(Weights(whole), Weights(parts));
  }
}

TEST_F(TrainRun, ResumedRunEndsWithTheSameBytesWhenExpertsGatherGradients) {
  for (const MatrixRule rule : {MatrixRule::kMuon, MatrixRule::kAdamW}) {
    const std::string name = rule == MatrixRule::kMuon ? "muon" : "adamw";
    TrainSettings whole = Small(name + "-whole");
    whole.matrices = rule;
    whole.expert_every = 2;
    whole.shared_steps = 4;
    ASSERT_TRUE(Train(whole).ok());
    TrainSettings parts = whole;
    parts.out = Small(name + "-parts").out;
    parts.stop_at = 8;
    ASSERT_TRUE(Train(parts).ok());
    parts.stop_at = 0;
    parts.resume = true;
    ASSERT_TRUE(Train(parts).ok());
    EXPECT_EQ(Weights(whole), Weights(parts));
  }
}

TEST_F(TrainRun, RefusesToCutWhileExpertsGatherGradients) {
  TrainSettings s = Small("run");
  s.expert_every = 4;
  s.shared_steps = 4;
  s.stop_at = 6;
  EXPECT_NE(Problem(s).find("multiples of --expert-every 4"), std::string::npos);
}

TEST_F(TrainRun, PartedExpertsMoveOnlyWhenTheirGradientsAreGathered) {
  const auto weights = [&](int64_t steps, const char* name) {
    TrainSettings s = Small(name);
    s.expert_every = steps;
    s.shared_steps = 0;
    s.steps = 4;
    s.warmup = 0;
    s.dropout = 0;
    EXPECT_TRUE(Train(s).ok());
    return Log(s).back()["loss"].get<double>();
  };
  // Mean loss of steps 0-3: with a single update at the end it is that of experts that never moved.
  EXPECT_LT(weights(1, "each"), weights(4, "fourth"));
}

TEST_F(TrainRun, NeuronsOfWhichThereIsOneCopyAreUpdatedAtEveryStep) {
  const auto weights = [&](int64_t every, const char* name) {
    TrainSettings s = Small(name);
    s.config.lattice = s.config.region = {1, 1, 1};
    s.config.own_neurons = 0;
    s.expert_every = every;
    s.shared_steps = 0;
    EXPECT_TRUE(Train(s).ok());
    EXPECT_TRUE(fs::exists(fs::path(s.out) / "checkpoint/start.safetensors"));
    return Weights(s);
  };
  EXPECT_EQ(weights(1, "each"), weights(4, "fourth"));
}

TEST_F(TrainRun, BeginsWithTheWeightsOfAnEarlierSharedStart) {
  TrainSettings first = Small("first");
  first.steps = first.shared_steps = 60;
  first.lr = 5e-3;
  ASSERT_TRUE(Train(first).ok());
  const fs::path start = fs::path(first.out) / "checkpoint/start.safetensors";
  TrainSettings next = Small("next");
  next.steps = 1;
  next.start = start.string();
  next.skip_steps = 60;
  const absl::Status begun = Train(next);
  ASSERT_TRUE(begun.ok()) << begun;
  EXPECT_NEAR(Log(next).back()["loss"].get<double>(), Log(first).back()["loss"].get<double>(), 0.3);
  EXPECT_GT(Log(first)[1]["loss"].get<double>(), Log(first).back()["loss"].get<double>() + 1);
  TrainSettings parted = Small("parted");
  parted.steps = 6;
  ASSERT_TRUE(Train(parted).ok());
  EXPECT_FALSE(fs::exists(fs::path(parted.out) / "checkpoint/start.safetensors"));
  next.out = Small("other").out;
  next.config.r = 8;
  EXPECT_NE(std::string(Train(next).message()).find("layers.0.wk"), std::string::npos);
}

TEST_F(TrainRun, LearnsAndLogsWhatItDid) {
  TrainSettings s = Small("run");
  s.config.lattice = {8, 4, 4};
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

TEST_F(TrainRun, LearnsWithEveryKindOfRoutesAndLogsHowTheyMove) {
  for (const RouteFrom kind : {RouteFrom::kToken, RouteFrom::kAhead, RouteFrom::kAddress}) {
    SCOPED_TRACE(RouteFromName(kind));
    TrainSettings s = SmallRouted(RouteFromName(kind), kind);
    s.steps = 60;
    s.dropout = 0;
    s.lr = 5e-3;
    s.tune = 0.2;
    s.eval_every = 20;
    const absl::Status trained = Train(s);
    ASSERT_TRUE(trained.ok()) << trained;
    const nlohmann::json last = Log(s).back();
    EXPECT_LT(last["valid_nats_per_token"], 0.6 * std::log(300));
    EXPECT_GE(last["same_region"], last["same_expert"]);
    EXPECT_GE(last["churn"], 0.0);
    EXPECT_LT(last["churn"], 0.5);
  }
}

TEST_F(TrainRun, MovesRoutesLessTheSlowerRoutersLearn) {
  const auto churn = [&](double rate, const std::string& name) {
    TrainSettings s = SmallRouted(name, RouteFrom::kToken);
    s.steps = 20;
    s.warmup = 0;
    s.router_lr = rate;
    s.balance_rate = 0;
    EXPECT_TRUE(Train(s).ok());
    return Log(s).back()["churn"].get<double>();
  };
  const double slow = churn(0, "slow"), fast = churn(10, "fast");
  EXPECT_LT(slow, fast);
}

TEST_F(TrainRun, RefusesWhatItCannotUse) {
  TrainSettings s = Small("refused");
  s.data = {Path("missing.txt")};
  EXPECT_EQ(Train(s).code(), absl::StatusCode::kNotFound);
  std::ofstream(Path("empty.txt")).close();
  s.data = {Path("empty.txt")};
  EXPECT_NE(Problem(s).find("empty"), std::string::npos);
  std::ofstream(Path("binary.txt")) << std::string("text\0more", 9);
  s.data = {Path("binary.txt")};
  EXPECT_NE(Problem(s).find("zero byte at offset 4"), std::string::npos);
  std::ofstream(Path("cut.txt.xz")) << "\xfd"
                                       "7zXZ";
  s.data = {Path("cut.txt.xz")};
  EXPECT_EQ(Train(s).code(), absl::StatusCode::kDataLoss);
  std::ofstream(Path("short.txt")) << "abc";
  s.data = {Path("short.txt")};
  EXPECT_NE(Problem(s).find("fewer than one segment"), std::string::npos);
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

TEST_F(TrainRun, TurnsWhatIsThrownIntoAStatus) {
  TrainSettings s = Small("run");
  EXPECT_EQ(Train(s, []() -> bool { throw std::bad_alloc(); }).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Train(s, []() -> bool { throw std::runtime_error("broken"); }).message(), "broken");
  const absl::Status torch = Train(s, []() -> bool { TORCH_CHECK(false, "no such tensor"); });
  EXPECT_EQ(torch.message(), "libtorch: no such tensor");
}

TEST_F(TrainRun, SaysWhichLimitItsThreadsMeet) {
  TrainSettings s = Small("run");
  s.threads = 4;
  absl::Status trained;
  if (!testing::RunWithout({SYS_clone3, EAGAIN}, [&] { trained = Train(s); })) {
    GTEST_SKIP() << "no seccomp here: threads cannot be refused";
  }
  EXPECT_EQ(trained.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(trained.message().find("cannot start 3 threads"), std::string::npos) << trained;
}

TEST_F(TrainRun, NotesWhatCannotAct) {
  TrainSettings s = Small("run");
  s.eval_every = 4;
  ::testing::internal::CaptureStderr();
  ASSERT_TRUE(Train(s).ok());
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("--eval-every has nothing to validate on"),
            std::string::npos);
  s = Small("other");
  s.tune = 0.1;
  ::testing::internal::CaptureStderr();
  ASSERT_TRUE(Train(s).ok());
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("nothing is validated while --eval-every is 0"),
            std::string::npos);
}

TEST(Muon, OrthogonalisesTallAndWideMatrices) {
  torch::manual_seed(3);
  for (const auto& [rows, cols] : {std::pair{48, 192}, std::pair{192, 48}, std::pair{64, 64}}) {
    const torch::Tensor x = torch::randn({rows, cols}) * 1e-3;
    const torch::Tensor y = Orthogonalized(x);
    ASSERT_EQ(y.sizes(), x.sizes());
    const torch::Tensor values = torch::linalg_svdvals(y, c10::nullopt);
    EXPECT_LT(values.max().item<float>(), 1.3f);
    if (rows != cols) {  // a square one has singular values near zero
      EXPECT_GT(values.min().item<float>(), 0.6f);
    }
    // The directions stay: U V^T has the largest inner product with x of all such matrices, the sum of x's
    // values.
    const float reached = (x * y).sum().item<float>(),
                best = torch::linalg_svdvals(x, c10::nullopt).sum().item<float>();
    EXPECT_NEAR(reached / best, 0.9f, 0.2f);
  }
}

TEST(Muon, UpdatesEachStackedMatrixByTheScaledDirectionAndDecays) {
  torch::manual_seed(4);
  Param p;
  p.w = torch::randn({1, 96, 32});
  p.grad = torch::randn({1, 96, 32});
  p.m = torch::zeros_like(p.w);
  p.v = torch::zeros_like(p.w);
  p.coding = Coding::kTwoBit;
  p.decay = true;
  p.stacked = {64, 32};
  const torch::Tensor before = p.w.clone();
  OptimizerStep({&p}, 0, {.lr = 0.01f, .weight_decay = 0.5f, .clip = 0, .matrices = MatrixRule::kMuon});
  int64_t row = 0;
  for (const int64_t rows : p.stacked) {
    const torch::Tensor w0 = before[0].narrow(0, row, rows), w1 = p.w[0].narrow(0, row, rows);
    const torch::Tensor gradient = p.grad[0].narrow(0, row, rows);
    const torch::Tensor momentum = torch::zeros_like(gradient).lerp(gradient, 1 - 0.95f);
    const torch::Tensor expected =
        w0 * (1 - 0.01 * 0.5) - 0.01 * 0.2 * std::sqrt(std::max<double>(static_cast<double>(rows), 32)) *
                                    Orthogonalized(gradient.lerp(momentum, 0.95f));
    EXPECT_TRUE(torch::allclose(w1, expected, 1e-4, 1e-5));
    row += rows;
  }
  EXPECT_EQ(p.v.abs().max().item<float>(), 0.0f);
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
