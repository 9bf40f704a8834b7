// The project's own exp: accuracy of the reference, and the same bytes in every variant over the whole range.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/op.h"
#include "tests/kernels/testing.h"

namespace omni::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr uint32_t kStep = 1009;  // bit patterns between samples: about four million floats

TEST(ExpTest, IsWithinTwoTenMillionths) {
  double worst = 0;
  for (uint64_t bits = 0; bits <= 0xffffffffu; bits += kStep) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (!(x >= -87.0f && x <= 88.7f)) continue;  // where the result is a normal float
    const double exact = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::fabs(Exp(x) - exact) / exact);
  }
  EXPECT_LT(worst, 2e-7);
}

TEST(ExpTest, IsWithinHalfTheLeastFloatAmongSubnormals) {
  for (float x = -105; x < -87; x += 0.001f) {
    const double exact = std::exp(static_cast<double>(x));
    ASSERT_NEAR(Exp(x), exact, 0.51 * std::numeric_limits<float>::denorm_min() + 2e-7 * exact) << x;
  }
}

TEST(ExpTest, HandlesTheEnds) {
  EXPECT_EQ(Exp(0.0f), 1.0f);
  EXPECT_EQ(Exp(-0.0f), 1.0f);
  EXPECT_TRUE(SameFloat(Exp(-kInf), 0.0f));
  EXPECT_TRUE(SameFloat(Exp(-1e30f), 0.0f));
  EXPECT_TRUE(SameFloat(Exp(-104.0f), 0.0f));
  EXPECT_EQ(Exp(kInf), kInf);
  EXPECT_EQ(Exp(1e30f), kInf);
  EXPECT_EQ(Exp(88.8f), kInf);
  EXPECT_LT(Exp(88.7f), kInf);
  EXPECT_TRUE(std::isnan(Exp(std::numeric_limits<float>::quiet_NaN())));
}

TEST(LogTest, IsWithinThreeUnitsInTheLastPlace) {
  for (uint64_t bits = 0x00800000; bits < 0x7f800000; bits += kStep) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    const double exact = std::log(static_cast<double>(x));
    const double unit = std::ldexp(1.0, std::ilogb(std::max(std::fabs(exact), 1e-30)) - 23);
    // Near 1 the terms cancel down to the error of the smaller one.
    ASSERT_NEAR(static_cast<double>(Log(x)), exact, std::max(3 * unit, 1.2e-7 * std::fabs(exact))) << x;
  }
  EXPECT_EQ(Log(1.0f), 0.0f);
  EXPECT_EQ(Log(0.0f), Log(std::numeric_limits<float>::min()));
}

TEST(SigmoidTest, IsAccurateAndHandlesTheEnds) {
  for (float x = -80; x < 80; x += 0.0137f) {
    const double exact = 1 / (1 + std::exp(-static_cast<double>(x)));
    ASSERT_NEAR(Sigmoid(x), exact, 3e-7 * exact) << x;
    ASSERT_NEAR(Silu(x), x * exact, 4e-7 * std::fabs(x * exact)) << x;
  }
  EXPECT_EQ(Sigmoid(0), 0.5f);
  EXPECT_EQ(Sigmoid(kInf), 1.0f);
  EXPECT_EQ(Sigmoid(-kInf), 0.0f);
  EXPECT_TRUE(std::isnan(Sigmoid(std::numeric_limits<float>::quiet_NaN())));
}

class ExpEveryIsaTest : public EveryIsa {};

TEST_P(ExpEveryIsaTest, SoftmaxUsesTheSameExp) {
  std::vector<float> x = {0.0f};  // the maximum, so the rest is taken as it is
  for (uint64_t bits = 0x80000000u; bits <= 0xff800000u; bits += kStep) {
    x.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  x.push_back(-kInf);
  std::vector<float> e(x.size());
  float max = 0;
  ops().exp_sum(x.data(), static_cast<int64_t>(x.size()), e.data(), &max);
  for (size_t i = 0; i < x.size(); ++i) ASSERT_TRUE(SameFloat(e[i], Exp(x[i]))) << std::hexfloat << x[i];
}

TEST_P(ExpEveryIsaTest, LogIsTheSameForEveryInput) {
  std::vector<float> x;
  for (uint64_t bits = 0; bits <= 0xff800000u; bits += kStep) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (std::isfinite(value)) x.push_back(value);
  }
  std::vector<float> y(x.size());
  ops().log(x.data(), static_cast<int64_t>(x.size()), y.data());
  for (size_t i = 0; i < x.size(); ++i) ASSERT_TRUE(SameFloat(y[i], Log(x[i]))) << std::hexfloat << x[i];
}

TEST_P(ExpEveryIsaTest, SigmoidIsTheSameForEveryInput) {
  std::vector<float> x;
  for (uint64_t bits = 0; bits <= 0xffffffffu; bits += kStep) {
    x.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  const std::vector<float> zero(x.size(), 0.0f);
  std::vector<float> gamma(x.size());
  ops().decay(x.data(), zero.data(), 0.0f, static_cast<int64_t>(x.size()), gamma.data());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_TRUE(SameFloat(gamma[i], Sigmoid(x[i] + 0.0f))) << std::hexfloat << x[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, ExpEveryIsaTest, EachIsa(), IsaTestName);

}  // namespace
}  // namespace omni::kernels
