// The end of PairProducts' ternary groups (products.h), for every set that has them. In the including file's
// anonymous namespace.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/code_sums.h"

namespace omni::kernels {
namespace {

// The sums of the lanes of four vectors.
inline __m128i Total4OfEight(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  const __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
  const __m256i all = _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
  return _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

// sums: of the products of t0, t0 + 3 t1, 9 t2 and t3; last: of t4. out[i] = (add ? itself : 0) + the sum of
// t_i less the offset.
inline void PutTritSums(__m128i sums, int32_t last, int32_t offset, bool add, int32_t* out) {
  // Exact multiples of 3 and 9, divided by them.
  const __m128i inverse = _mm_setr_epi32(1, static_cast<int>(kInverse3), static_cast<int>(kInverse9), 1);
  const __m128i below = _mm_blend_epi16(_mm_setzero_si128(), _mm_slli_si128(sums, 4), 0x0c);
  __m128i trits = _mm_mullo_epi32(_mm_sub_epi32(sums, below), inverse);
  trits = _mm_sub_epi32(trits, _mm_set1_epi32(offset));
  auto* to = reinterpret_cast<__m128i*>(out);
  if (add) {
    trits = _mm_add_epi32(trits, _mm_loadu_si128(to));
    last += out[4];
  }
  _mm_storeu_si128(to, trits);
  out[4] = last - offset;
}

}  // namespace
}  // namespace omni::kernels
