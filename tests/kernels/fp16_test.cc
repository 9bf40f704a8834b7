#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/op.h"
#include "tests/kernels/testing.h"

namespace omni::kernels {
namespace {

bool IsNanHalf(uint16_t h) { return (h & 0x7c00) == 0x7c00 && (h & 0x3ff) != 0; }

double HalfValue(uint16_t h) {  // of a finite half, from the definition of the format
  const int exponent = (h >> 10) & 0x1f;
  const double mantissa = h & 0x3ff;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return h & 0x8000 ? -magnitude : magnitude;
}

TEST(Fp16Test, WidensToTheValueOfTheFormat) {
  for (uint32_t h = 0; h <= 0xffff; ++h) {
    const uint16_t half = static_cast<uint16_t>(h);
    if ((half & 0x7c00) == 0x7c00) continue;
    ASSERT_EQ(static_cast<double>(FromFp16(half)), HalfValue(half));
    ASSERT_EQ(std::signbit(FromFp16(half)), (half & 0x8000) != 0);
  }
  EXPECT_EQ(FromFp16(0x7c00), INFINITY);
  EXPECT_EQ(FromFp16(0xfc00), -INFINITY);
}

TEST(Fp16Test, RoundsToTheNearestAndTiesToEven) {
  for (uint32_t h = 0; h < 0x7bff; ++h) {  // every pair of neighbours
    const double low = HalfValue(static_cast<uint16_t>(h)), high = HalfValue(static_cast<uint16_t>(h + 1));
    const float middle = static_cast<float>((low + high) / 2);
    ASSERT_EQ(static_cast<double>(middle), (low + high) / 2);
    ASSERT_EQ(ToFp16(middle), h % 2 == 0 ? h : h + 1);
    ASSERT_EQ(ToFp16(std::nextafter(middle, 0.0f)), h);
    ASSERT_EQ(ToFp16(std::nextafter(middle, INFINITY)), h + 1);
    ASSERT_EQ(ToFp16(-middle), 0x8000 | (h % 2 == 0 ? h : h + 1));
  }
  EXPECT_EQ(ToFp16(65504.0f), 0x7bff);
  EXPECT_EQ(ToFp16(std::nextafter(65520.0f, 0.0f)), 0x7bff);
  EXPECT_EQ(ToFp16(65520.0f), 0x7c00);
  EXPECT_EQ(ToFp16(-1e30f), 0xfc00);
  EXPECT_EQ(ToFp16(1e-30f), 0);
  EXPECT_EQ(ToFp16(-0.0f), 0x8000);
  EXPECT_EQ(ToFp16(INFINITY), 0x7c00);
  EXPECT_TRUE(IsNanHalf(ToFp16(NAN)));
}

class Fp16EveryIsaTest : public EveryIsa {};

TEST_P(Fp16EveryIsaTest, EveryHalfComesBack) {
  std::vector<uint16_t> halves;
  for (uint32_t h = 0; h <= 0xffff; ++h) halves.push_back(static_cast<uint16_t>(h));
  std::vector<float> floats(halves.size());
  std::vector<uint16_t> back(halves.size());
  ops().from_fp16(halves.data(), 65536, floats.data());
  ops().to_fp16(floats.data(), 65536, back.data());
  for (uint32_t h = 0; h <= 0xffff; ++h) {
    // Signalling NaNs come back quiet; everything else as it was, NaNs included, to the bit.
    const uint16_t expected = static_cast<uint16_t>(IsNanHalf(halves[h]) ? h | 0x200 : h);
    ASSERT_EQ(back[h], expected);
    ASSERT_EQ(std::bit_cast<uint32_t>(floats[h]), std::bit_cast<uint32_t>(FromFp16(halves[h])));
  }
}

TEST_P(Fp16EveryIsaTest, EveryFloatRoundsAsInTheReference) {
  std::vector<float> floats;
  for (uint64_t bits = 0; bits <= 0xffffffffu; bits += 997) {
    floats.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  std::vector<uint16_t> halves(floats.size());
  ops().to_fp16(floats.data(), static_cast<int64_t>(floats.size()), halves.data());
  for (size_t i = 0; i < floats.size(); ++i)
    ASSERT_EQ(halves[i], ToFp16(floats[i])) << std::hexfloat << floats[i];
}

TEST_P(Fp16EveryIsaTest, ShortRowsStayWithinTheirBuffers) {
  Random random(1);
  for (int64_t n = 1; n < 40; ++n) {
    Guarded<float> x(random.Floats(n, -9, 9)), y(n);
    Guarded<uint16_t> half(n);
    ops().to_fp16(x.data(), n, half.data());
    ops().from_fp16(half.data(), n, y.data());
    for (int64_t i = 0; i < n; ++i) ASSERT_TRUE(SameFloat(y[i], FromFp16(ToFp16(x[i])))) << n;
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Fp16EveryIsaTest, EachIsa(), IsaTestName);

}  // namespace
}  // namespace omni::kernels
