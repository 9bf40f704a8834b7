#include "engine/decode/rope.h"

#include <cmath>

#include <gtest/gtest.h>

namespace omni {
namespace {

TEST(RopeAnglesTest, AreTheSinesAndCosinesRoundedToFloat) {
  for (int64_t h : {2, 12, 50, 64, 128}) {
    for (double theta : {10000.0, 1.5, 500000.0}) {
      const RopeAngles angles(theta, h);
      ASSERT_EQ(angles.half(), h / 2);
      std::vector<float> cos(static_cast<size_t>(h / 2)), sin(cos.size());
      for (int64_t position : {0, 1, 2, 511, 8191, 65537, 1048576}) {
        angles.At(position, cos.data(), sin.data());
        for (size_t i = 0; i < cos.size(); ++i) {
          const long double angle =
              static_cast<long double>(position) *
              std::pow(static_cast<long double>(theta),
                       -2.0L * static_cast<long double>(i) / static_cast<long double>(h));
          // Half a unit of float's last place at 1, and double's error of the angle.
          const double tolerance = 6e-8 + 1e-15 * static_cast<double>(angle);
          ASSERT_NEAR(cos[i], static_cast<double>(std::cos(angle)), tolerance)
              << h << " " << position << " " << i;
          ASSERT_NEAR(sin[i], static_cast<double>(std::sin(angle)), tolerance)
              << h << " " << position << " " << i;
        }
      }
    }
  }
}

TEST(RopeAnglesTest, PositionZeroDoesNotTurn) {
  const RopeAngles angles(10000.0, 8);
  float cos[4], sin[4];
  angles.At(0, cos, sin);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(cos[i], 1.0f);
    EXPECT_EQ(sin[i], 0.0f);
  }
}

}  // namespace
}  // namespace omni
