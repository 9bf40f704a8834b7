// Steps in the unpacking of packed codes, over byte vectors W as in products.h.
#pragma once

#include <cstdint>

#include "kernels/op.h"

namespace omni::kernels {

// t mod 3 of a value below 9.
inline constexpr uint8_t kMod3[16] = {0, 1, 2, 0, 1, 2, 0, 1, 2};
// The greatest multiple of 27 up to 16 times the index.
inline constexpr uint8_t kTwentySevensBelow[16] = {0,   0,   27,  27,  54,  54,  81,  108,
                                                   108, 135, 135, 162, 189, 189, 216, 216};
// 27 q for q = t3 + 3 t4 ends in the nibbles 0, 11, 6, 1, 12, 7, 2, 13 and 8.
inline constexpr uint8_t kFourthTrit[16] = {0, 0, 0, 0, 0, 0, 2, 2, 2, 0, 0, 1, 1, 1, 0, 0};
inline constexpr uint8_t kFifthTrit[16] = {0, 1, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 2, 0, 0};

template <class W>
typename W::I Peel(typename W::I v, int power) {  // v mod power, for v below 3 * power
  const auto p = W::Fill(power);
  v = W::MinBytes(v, W::SubBytes(v, p));
  return W::MinBytes(v, W::SubBytes(v, p));
}

// t0 and t1 of t0 + 3 t1 are kMod3 and this; 9 t2 ends in the nibbles 0, 9 and 2.
inline constexpr uint8_t kDiv3[16] = {0, 0, 0, 1, 1, 1, 2, 2, 2};
inline constexpr uint8_t kThirdTrit[16] = {0, 0, 2, 0, 0, 0, 0, 0, 0, 1};

// The four rows' codes of a vector of two-bit bytes.
template <class W>
void TwoBitCodes(const uint8_t* bytes, typename W::I (&codes)[kTwoBitRows]) {
  const auto b = W::Load(bytes);
  const auto low = W::Fill(3);
  codes[0] = W::And(b, low);
  codes[1] = W::And(W::template ShiftRight<2>(b), low);
  codes[2] = W::And(W::template ShiftRight<4>(b), low);
  codes[3] = W::And(W::template ShiftRight<6>(b), low);
}

}  // namespace omni::kernels
