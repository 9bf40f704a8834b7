#include "engine/model/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace omni {
namespace {

using ::testing::ElementsAre;

TEST(Quantize, TernaryThresholdIsHalfTheMeanAndBelongsToZero) {
  const float w[] = {2.0f, -0.5f, 0.5f, 1.0f, -1.0f, 0.0f, -2.0f, 1.0f};  // mean |w| = 1
  int8_t trits[8];
  EXPECT_EQ(Ternarize(w, 8, 1, trits), 1.0f);
  EXPECT_THAT(trits, ElementsAre(1, 0, 0, 1, -1, 0, -1, 1));
}

TEST(Quantize, TernaryReadsAColumnByItsStride) {
  const float w[] = {3.0f, 9.0f, -3.0f, 9.0f, 0.0f, 9.0f};
  int8_t trits[3];
  EXPECT_EQ(Ternarize(w, 3, 2, trits), 2.0f);
  EXPECT_THAT(trits, ElementsAre(1, -1, 0));
}

TEST(Quantize, TernaryOfZerosIsZero) {
  const float w[] = {0.0f, -0.0f, 0.0f};
  int8_t trits[3] = {9, 9, 9};
  EXPECT_EQ(Ternarize(w, 3, 1, trits), 0.0f);
  EXPECT_THAT(trits, ElementsAre(0, 0, 0));
}

TEST(Quantize, TwoBitThresholdsAreTheRootMeanSquareAndZero) {
  const float w[] = {1.0f, -1.0f, 1.0f, -1.0f};  // s = 1: w < s is 1, so s itself is 3; -s is -1
  int8_t levels[4];
  EXPECT_EQ(TwoBitLevels(w, 4, levels), 1.0f);
  EXPECT_THAT(levels, ElementsAre(3, -1, 3, -1));
  const float v[] = {2.0f, -2.0f, 0.0f, -0.5f, 0.5f, 0.0f, 0.0f, 0.0f};
  int8_t more[8];
  EXPECT_FLOAT_EQ(TwoBitLevels(v, 8, more), std::sqrt(8.5f / 8));
  EXPECT_THAT(more, ElementsAre(3, -3, 1, -1, 1, 1, 1, 1));
}

TEST(Quantize, Int8RoundsHalvesToEvenAndSpansTheRange) {
  const float w[] = {127.0f, -127.0f, 0.5f, 1.5f, -2.5f, 0.0f};
  int8_t q[6];
  EXPECT_EQ(Int8Row(w, 6, q), 1.0f);
  EXPECT_THAT(q, ElementsAre(127, -127, 0, 2, -2, 0));
  const float zero[] = {0.0f, 0.0f};
  EXPECT_EQ(Int8Row(zero, 2, q), 0.0f);
  EXPECT_EQ(q[0], 0);
}

TEST(Quantize, Int8StaysInRangeWhenTheScaleIsSubnormal) {
  for (int steps = 1; steps < 600; ++steps) {
    const float tiny = std::ldexp(static_cast<float>(steps), -149);
    const float w[] = {tiny, -tiny};
    int8_t q[2];
    Int8Row(w, 2, q);
    EXPECT_GE(q[0], 0) << steps;
    EXPECT_EQ(q[1], -q[0]) << steps;
  }
}

TEST(Quantize, ErrorOfEachCodeIsBoundedByItsStep) {
  std::mt19937 rng(7);
  std::normal_distribution<float> normal;
  std::vector<float> w(1000);
  for (float& x : w) x = normal(rng);
  std::vector<int8_t> q(w.size());
  const float s = Int8Row(w.data(), 1000, q.data());
  // Half a step, and the roundings of the quotient (127 eps / 2) and of s itself (127 eps / 2).
  for (size_t i = 0; i < w.size(); ++i) EXPECT_LE(std::fabs(w[i] - s * q[i]), s * (0.5f + 127 * 1.2e-7f));
  const float step = TwoBitLevels(w.data(), 1000, q.data());
  for (size_t i = 0; i < w.size(); ++i) {
    if (std::fabs(w[i]) <= 2 * step) {
      EXPECT_LE(std::fabs(w[i] - q[i] * step / 2), step * 0.500001f);
    }
  }
}

}  // namespace
}  // namespace omni
