// What op_avx512vbmi.cc and op_amx.cc share. Both multiply bytes of packed codes as they stand, or some of
// their fields, and separate the sums of the rows once at the end, which is cheaper than separating every
// byte. Inlined always: the loops before them get other registers otherwise.
//
// W offers I (lanes of 32-bit integers), Add, Sub, ShiftLeft<n>, ShiftRight<n> (arithmetic) and Times(a,
// uint32_t), modulo 2^32. As in products.h, W lives in the anonymous namespace of the file that uses it.
#pragma once

#include <cstdint>

#include "kernels/op.h"

namespace omni::kernels {

// Trits t0..t3 of a remainder below 81, two bits each.
struct FourTrits {
  alignas(64) uint8_t of[128] = {};
};
constexpr FourTrits MakeFourTrits() {
  FourTrits four;
  for (int code = 0; code < 81; ++code) {
    four.of[code] = static_cast<uint8_t>(code % 3 | code / 3 % 3 << 2 | code / 9 % 3 << 4 | code / 27 << 6);
  }
  return four;
}
inline constexpr FourTrits kFourTrits = MakeFourTrits();

// An exact multiple of an odd number, divided by it, is the product with its inverse.
constexpr uint32_t InverseMod32(uint32_t odd) {
  uint32_t inverse = odd;
  for (int i = 0; i < 5; ++i) inverse *= 2 - odd * inverse;
  return inverse;
}
inline constexpr uint32_t kInverse3 = InverseMod32(3), kInverse9 = InverseMod32(9),
                          kInverse81 = InverseMod32(81);
static_assert(kInverse3 * 3u == 1u && kInverse9 * 9u == 1u && kInverse81 * 81u == 1u);

inline constexpr int kTernarySums = 5;

// With b a byte of five trits (0, 1, 2), r = b mod 81 and p = r's entry above: from the sums of the products
// of p's first field, of its second where it stands, of r, p and b, those of the trits.
template <class W>
[[gnu::always_inline]] inline void SumsOfTrits(const typename W::I (&sum)[kTernarySums],
                                               typename W::I (&trit)[kTernaryRows]) {
  using I = typename W::I;
  const I t0 = sum[0], t1 = W::template ShiftRight<2>(sum[1]);
  // t2 + 4 t3 and t2 + 3 t3
  const I four = W::template ShiftRight<4>(W::Sub(sum[3], W::Add(sum[0], sum[1])));
  const I first = W::Add(t0, W::Add(t1, W::Add(t1, t1)));
  const I three = W::Times(W::Sub(sum[2], first), kInverse9);
  const I t3 = W::Sub(four, three), t2 = W::Sub(four, W::template ShiftLeft<2>(t3));
  const I t4 = W::Times(W::Sub(sum[4], sum[2]), kInverse81);
  trit[0] = t0, trit[1] = t1, trit[2] = t2, trit[3] = t3, trit[4] = t4;
}

inline constexpr int kTwoBitSums = 4;

// With b a byte of four codes: from the sums of the products of its first three fields where they stand, and
// of b, those of the levels 2 code - 3; `offset` is three times the sum of x. The fields' weights 1, 4, 16,
// 64 are divided out less one bit.
template <class W>
[[gnu::always_inline]] inline void SumsOfLevels(const typename W::I (&sum)[kTwoBitSums], typename W::I offset,
                                                typename W::I (&level)[kTwoBitRows]) {
  using I = typename W::I;
  const I last = W::Sub(sum[3], W::Add(sum[0], W::Add(sum[1], sum[2])));
  level[0] = W::Sub(W::template ShiftLeft<1>(sum[0]), offset);
  level[1] = W::Sub(W::template ShiftRight<1>(sum[1]), offset);
  level[2] = W::Sub(W::template ShiftRight<3>(sum[2]), offset);
  level[3] = W::Sub(W::template ShiftRight<5>(last), offset);
}

}  // namespace omni::kernels
