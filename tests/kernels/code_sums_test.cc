// The table and the equations of the variants that multiply bytes of codes whole, on one lane: these run on
// every CPU, the variants only on CPUs of AVX-512.
#include <gtest/gtest.h>

#include <cstdint>

#include "kernels/code_sums.h"
#include "kernels/op.h"
#include "tests/kernels/testing.h"

namespace omni::kernels {
namespace {

struct Ints1 {
  using I = int32_t;
  static I Add(I a, I b) { return a + b; }
  static I Sub(I a, I b) { return a - b; }
  template <int kBits>
  static I ShiftLeft(I a) {
    return a * (1 << kBits);
  }
  template <int kBits>
  static I ShiftRight(I a) {
    return a >> kBits;
  }
  static I Times(I a, uint32_t b) { return static_cast<I>(static_cast<uint32_t>(a) * b); }
};

TEST(FourTritsTest, HoldsTheTritsOfEveryRemainder) {
  for (int code = 0; code < 81; ++code) {
    int rest = code;
    for (int i = 0; i < 4; ++i, rest /= 3) EXPECT_EQ(kFourTrits.of[code] >> 2 * i & 3, rest % 3) << code;
  }
}

// `n` products; x from -127 to 127, or always the largest, which brings the sums to their limits.
void ExpectTritSums(int64_t n, bool largest) {
  Random random(static_cast<uint64_t>(n));
  int32_t sum[kTernarySums] = {}, want[kTernaryRows] = {}, trit[kTernaryRows];
  for (int64_t j = 0; j < n; ++j) {
    const int32_t x = largest ? 127 : random.Below(255) - 127, b = largest ? 242 : random.Below(243);
    const int32_t r = b % 81, p = kFourTrits.of[r];
    sum[0] += (p & 3) * x;
    sum[1] += (p & 12) * x;
    sum[2] += r * x;
    sum[3] += p * x;
    sum[4] += b * x;
    int32_t rest = b;
    for (int i = 0; i < kTernaryRows; ++i, rest /= 3) want[i] += rest % 3 * x;
  }
  SumsOfTrits<Ints1>(sum, trit);
  for (int i = 0; i < kTernaryRows; ++i) EXPECT_EQ(trit[i], want[i]) << "trit " << i << " of " << n;
}

TEST(SumsOfTritsTest, SeparatesTheRows) {
  for (int64_t n : {1, 2, 3, 64, 1000}) ExpectTritSums(n, false);
}

TEST(SumsOfTritsTest, SeparatesTheRowsOfTheWidestMatrix) {
  ExpectTritSums(kMaxCols, false);
  ExpectTritSums(kMaxCols, true);
}

void ExpectLevelSums(int64_t n, bool largest) {
  Random random(static_cast<uint64_t>(n));
  int32_t sum[kTwoBitSums] = {}, want[kTwoBitRows] = {}, level[kTwoBitRows], x_sum = 0;
  for (int64_t j = 0; j < n; ++j) {
    const int32_t x = largest ? 127 : random.Below(255) - 127, b = largest ? 255 : random.Below(256);
    x_sum += x;
    for (int i = 0; i < 3; ++i) sum[i] += (b & 3 << 2 * i) * x;
    sum[3] += b * x;
    for (int i = 0; i < kTwoBitRows; ++i) want[i] += (2 * (b >> 2 * i & 3) - 3) * x;
  }
  SumsOfLevels<Ints1>(sum, 3 * x_sum, level);
  for (int i = 0; i < kTwoBitRows; ++i) EXPECT_EQ(level[i], want[i]) << "row " << i << " of " << n;
}

TEST(SumsOfLevelsTest, SeparatesTheRows) {
  for (int64_t n : {1, 2, 3, 64, 1000}) ExpectLevelSums(n, false);
}

TEST(SumsOfLevelsTest, SeparatesTheRowsOfTheWidestMatrix) {
  ExpectLevelSums(kMaxCols, false);
  ExpectLevelSums(kMaxCols, true);
}

}  // namespace
}  // namespace omni::kernels
