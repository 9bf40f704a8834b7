// Loads evened out by biases.
#include "engine/train/balance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace omni::train {
namespace {

// Tokens on a line between two ends, most of them near 0, and four experts that they go to by distance and
// bias: what a router does, in one dimension.
std::vector<int64_t> Choose(const std::vector<float>& bias) {
  constexpr float kPositions[] = {0.125f, 0.375f, 0.625f, 0.875f};
  std::vector<int64_t> counts(4, 0);
  for (int i = 0; i < 1000; ++i) {
    const float at = static_cast<float>(i) / 1000.0f, z = at * at * at;
    size_t best = 0;
    float least = 1e30f;
    for (size_t e = 0; e < 4; ++e) {
      const float distance = (z - kPositions[e]) * (z - kPositions[e]) - bias[e];
      if (distance < least) least = distance, best = e;
    }
    ++counts[best];
  }
  return counts;
}

TEST(Balance, EvensOutASkewedLoad) {
  std::vector<float> bias(4, 0.0f), loads(4, 0.25f);
  ASSERT_GT(Choose(bias)[0], 600);
  for (int step = 0; step < 2000; ++step)
    BalanceStep(Choose(bias), {.rate = 1e-3, .tokens = 10000}, loads, bias);
  const std::vector<int64_t> counts = Choose(bias);
  for (size_t e = 0; e < 4; ++e) {
    EXPECT_NEAR(static_cast<double>(counts[e]), 250, 50) << e;
    EXPECT_NEAR(loads[e], 0.25f, 0.03f) << e;
  }
  EXPECT_NEAR(std::accumulate(bias.begin(), bias.end(), 0.0f), 0.0f, 1e-5f);
}

TEST(Balance, SwingsLessWhereStepsShrinkNearTheMean) {
  const auto swing = [](double soft) {
    std::vector<float> bias(4, 0.0f), loads(4, 0.25f);
    int64_t most = 0;
    for (int step = 0; step < 2000; ++step) {
      const std::vector<int64_t> counts = Choose(bias);
      if (step >= 1500) most = std::max(most, *std::max_element(counts.begin(), counts.end()));
      BalanceStep(counts, {.rate = 3e-3, .tokens = 20000, .soft = soft}, loads, bias);
    }
    return most - 250;
  };
  EXPECT_GT(swing(0), 100);
  EXPECT_LT(swing(1), 10);
}

TEST(Balance, FollowsTheMeanOfManyStepsRatherThanOne) {
  std::vector<float> bias(2, 0.0f), loads(2, 0.5f);
  const std::vector<int64_t> one_sided = {100, 0}, other_side = {0, 100};
  BalanceStep(one_sided, {.rate = 0.125, .tokens = 1000}, loads, bias);
  EXPECT_FLOAT_EQ(loads[0], 0.55f);
  EXPECT_FLOAT_EQ(bias[0], -0.125f);
  EXPECT_FLOAT_EQ(bias[1], 0.125f);
  BalanceStep(one_sided, {.rate = 0.125, .tokens = 1000}, loads, bias);
  BalanceStep(other_side, {.rate = 0.125, .tokens = 1000}, loads, bias);
  EXPECT_GT(loads[0], 0.5f);  // as yet
  EXPECT_FLOAT_EQ(bias[0], -0.375f);
}

TEST(Balance, LeavesAnEvenLoadAsItIs) {
  std::vector<float> bias(4, 0.0f), loads(4, 0.25f);
  BalanceStep(std::vector<int64_t>(4, 25), {.rate = 1e-3, .tokens = 1000}, loads, bias);
  EXPECT_EQ(bias, std::vector<float>(4, 0.0f));
}

}  // namespace
}  // namespace omni::train
