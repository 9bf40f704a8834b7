// Hamming distances against a count bit by bit, with both vectors ending at unreadable pages.
#include <gtest/gtest.h>

#include <cstdint>

#include "kernels/op.h"
#include "tests/kernels/testing.h"

namespace omni::kernels {
namespace {

class DifferingBitsTest : public EveryIsa {};

TEST_P(DifferingBitsTest, CountsEveryBitOfEveryLength) {
  uint64_t state = 1;
  for (const int64_t bytes : {0, 1, 7, 31, 32, 33, 63, 64, 65, 127, 1250, 8192}) {
    Guarded<uint8_t> a(bytes), b(bytes);
    int64_t want = 0;
    for (int64_t i = 0; i < bytes; ++i) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      a[i] = static_cast<uint8_t>(state >> 56);
      b[i] = static_cast<uint8_t>(state >> 48);
      for (int bit = 0; bit < 8; ++bit) want += (a[i] >> bit & 1) != (b[i] >> bit & 1);
    }
    EXPECT_EQ(ops().differing_bits(a.data(), b.data(), bytes), want) << bytes;
    EXPECT_EQ(ops().differing_bits(a.data(), a.data(), bytes), 0) << bytes;
  }
}

TEST_P(DifferingBitsTest, AllBitsOfALongVectorDiffer) {
  constexpr int64_t kBytes = 100000;  // more than a byte lane could count
  Guarded<uint8_t> zeros(kBytes), ones(kBytes);
  for (int64_t i = 0; i < kBytes; ++i) ones[i] = 0xff;
  EXPECT_EQ(ops().differing_bits(zeros.data(), ones.data(), kBytes), 8 * kBytes);
}

INSTANTIATE_TEST_SUITE_P(Isa, DifferingBitsTest, EachIsa(), IsaTestName);

}  // namespace
}  // namespace omni::kernels
