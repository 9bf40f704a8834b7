// What is done to the copies of parted neurons, and what their rates mean to the optimiser.
#include "engine/train/copies.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "engine/train/optimizer.h"

namespace omni::train {
namespace {

using torch::Tensor;

TEST(RatesByUse, AreAPowerOfTheShareOfTokensWithALeastAndNoneForTheUnused) {
  const std::vector<int64_t> used = {64, 16, 1, 0, 19};
  const std::vector<float> rates = RatesByUse(used, 100, 0.5);
  const std::vector<float> want = {0.8f, 0.4f, 0.1f, 0.0f, std::sqrt(0.19f)};
  ASSERT_EQ(rates.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(rates[i], want[i], 1e-6);
  EXPECT_EQ(RatesByUse(used, 100, 1.0)[2], 0.05f);
}

TEST(PullToRegions, MovesEachExpertTowardsTheMeanOfItsRegion) {
  torch::manual_seed(5);
  const std::vector<int32_t> region_of = {0, 1, 0, 1, 2, 0};
  const Tensor before = torch::randn({6, 4, 3});
  Tensor w = before.clone();
  PullToRegions(w, region_of, 0.25);
  const Tensor mean0 = (before[0] + before[2] + before[5]) / 3, mean1 = (before[1] + before[3]) / 2;
  for (int64_t e : {0, 2, 5}) EXPECT_TRUE(torch::allclose(w[e], before[e] * 0.75 + mean0 * 0.25, 1e-5, 1e-6));
  for (int64_t e : {1, 3}) EXPECT_TRUE(torch::allclose(w[e], before[e] * 0.75 + mean1 * 0.25, 1e-5, 1e-6));
  EXPECT_TRUE(torch::allclose(w[4], before[4], 1e-5, 1e-6));  // alone in its region
}

TEST(Divide, MakesCopiesOfTheFirstWithNoiseOfTheSizeOfEachRow) {
  torch::manual_seed(6);
  Tensor w = torch::randn({8, 3, 500});
  w[0][1].mul_(10);
  const Tensor parent = w[0].clone();
  Tensor same = w.clone(), other = w.clone();
  Divide(w, 0.02, 7);
  Divide(same, 0.02, 7);
  Divide(other, 0.02, 8);
  EXPECT_TRUE(torch::equal(w, same));
  EXPECT_FALSE(torch::equal(w, other));
  for (int64_t row = 0; row < 3; ++row) {
    const double rms = parent[row].pow(2).mean().sqrt().item<double>();
    for (int64_t copy = 0; copy < 8; ++copy) {
      const double noise = (w[copy][row] - parent[row]).pow(2).mean().sqrt().item<double>();
      EXPECT_NEAR(noise / rms, 0.02, 0.003);
    }
  }
  EXPECT_FALSE(torch::equal(w[1], w[2]));
  Divide(w, 0, 9);
  EXPECT_TRUE(torch::equal(w[7], w[0]));
}

Param TwoCopies() {
  Param p;
  p.w = torch::randn({2, 40, 30});
  p.w[1].copy_(p.w[0]);
  p.grad = torch::randn({1, 40, 30}).expand({2, 40, 30}).clone();
  p.m = torch::zeros_like(p.w);
  p.v = torch::zeros_like(p.w);
  p.coding = Coding::kTernary;
  p.decay = true;
  p.stacked = {20, 20};
  return p;
}

TEST(RatesOfCopies, ScaleStepAndDecayOfEachByItself) {
  for (const MatrixRule rule : {MatrixRule::kMuon, MatrixRule::kAdamW}) {
    torch::manual_seed(8);
    Param p = TwoCopies();
    const Tensor before = p.w.clone();
    p.rates = {0.5f, 0.0f};
    const OptimizerSettings settings = {.lr = 0.01f, .weight_decay = 0.5f, .clip = 0, .matrices = rule};
    OptimizerStep({&p}, 0, settings);
    torch::manual_seed(8);
    Param whole = TwoCopies();
    OptimizerStep({&whole}, 0, settings);
    EXPECT_TRUE(torch::allclose(p.w[0] - before[0], (whole.w[0] - before[0]) * 0.5, 1e-3, 1e-6));
    EXPECT_TRUE(torch::equal(p.w[1], before[1]));
    EXPECT_TRUE(torch::equal(p.m, whole.m));  // what was learnt is not lost
  }
}

}  // namespace
}  // namespace omni::train
