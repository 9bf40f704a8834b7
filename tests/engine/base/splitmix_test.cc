#include "engine/base/splitmix.h"

#include <bit>
#include <cmath>

#include <gtest/gtest.h>

namespace omni {
namespace {

TEST(SplitMix, IsTheReferenceGenerator) {
  // The first three outputs of the published generator with state 0.
  EXPECT_EQ(SplitMix64(0), 0xe220a8397b1dcdafu);
  EXPECT_EQ(SplitMix64(0x9e3779b97f4a7c15u), 0x6e789e6aa1b965f4u);
  EXPECT_EQ(SplitMix64(2 * 0x9e3779b97f4a7c15u), 0x06c45d188009454fu);
}

TEST(SplitMix, UniformStaysBelowOneAndFillsTheInterval) {
  // Mean of n uniform numbers: deviation 1 / sqrt(12 n); five of them are allowed.
  constexpr int kDraws = 100000;
  double sum = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = CounterUniform(42, static_cast<uint64_t>(i));
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 5 / std::sqrt(12.0 * kDraws));
}

TEST(SplitMix, NeighbouringSeedsAndCountersDoNotCorrelate) {
  // 64 n coin throws: the number of differing bits deviates by 4 sqrt(n); five deviations are allowed.
  constexpr int kPairs = 20000;
  int64_t seeds = 0, counters = 0, diagonal = 0;
  for (uint64_t i = 0; i < kPairs; ++i) {
    seeds += std::popcount(CounterRandom(i, 7) ^ CounterRandom(i + 1, 7));
    counters += std::popcount(CounterRandom(7, i) ^ CounterRandom(7, i + 1));
    diagonal += std::popcount(CounterRandom(i, i + 1) ^ CounterRandom(i + 1, i));
  }
  const double tolerance = 5 * 4 * std::sqrt(static_cast<double>(kPairs));
  EXPECT_NEAR(static_cast<double>(seeds), 32.0 * kPairs, tolerance);
  EXPECT_NEAR(static_cast<double>(counters), 32.0 * kPairs, tolerance);
  EXPECT_NEAR(static_cast<double>(diagonal), 32.0 * kPairs, tolerance);
}

}  // namespace
}  // namespace omni
