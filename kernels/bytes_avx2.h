// Thirty-two bytes as one AVX2 register, for products.h; in the including file's anonymous namespace. With
// AVX-VNNI, Dot too.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/trit_sums.h"

namespace omni::kernels {
namespace {

struct Bytes {
  using I = __m256i;
  static constexpr int64_t kBytes = 32;
  static constexpr int kRegisters = 16;
  static constexpr bool kTakesRowBlocks = true;

  static I Load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static void Pin(I& a) { asm("" : "+x"(a)); }  // a is computed here, in a register
  static I Zero() { return _mm256_setzero_si256(); }
  static I Fill(int b) { return _mm256_set1_epi8(static_cast<char>(b)); }
  static I AddInts(I a, I b) { return _mm256_add_epi32(a, b); }
  static I AddWords(I a, I b) { return _mm256_add_epi16(a, b); }
  static I SubBytes(I a, I b) { return _mm256_sub_epi8(a, b); }
  static I MinBytes(I a, I b) { return _mm256_min_epu8(a, b); }
  static I And(I a, I b) { return _mm256_and_si256(a, b); }
  static I Abs(I a) { return _mm256_abs_epi8(a); }
  static I Sign(I x, I w) { return _mm256_sign_epi8(x, w); }
  static I Xor(I a, I b) { return _mm256_xor_si256(a, b); }
  static I AddBytes(I a, I b) { return _mm256_add_epi8(a, b); }
  static I AddLongs(I a, I b) { return _mm256_add_epi64(a, b); }
  static I SumsOfEight(I a) { return _mm256_sad_epu8(a, _mm256_setzero_si256()); }
  static int64_t TotalLongs(I a) {
    const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    return _mm_cvtsi128_si64(_mm_add_epi64(two, _mm_unpackhi_epi64(two, two)));
  }
  template <int kBits>
  static I ShiftRight(I a) {
    return _mm256_srli_epi16(a, kBits);
  }
  static I Lookup(const uint8_t (&table)[16], I index) {
    return _mm256_shuffle_epi8(
        _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), index);
  }
  static I PairSums(I u, I x) { return _mm256_maddubs_epi16(u, x); }
  static I WidenPairs(I words) { return _mm256_madd_epi16(words, _mm256_set1_epi16(1)); }
#ifdef __AVXVNNI__
  static I Dot(I acc, I u, I x) {
    // As an intrinsic g++ 12 may copy the accumulator, since it changes the vector's type and back.
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(u), "x"(x));
    return acc;
  }
#endif
  static void Store(void* p, I a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }
  static I Broadcast(const void* p) {
    int four;
    __builtin_memcpy(&four, p, sizeof four);
    return _mm256_set1_epi32(four);
  }
  static I SubInts(I a, I b) { return _mm256_sub_epi32(a, b); }
  template <int kOut>
  static void StoreLanes(const I (&out)[kOut], int rows, int32_t* y, int64_t y_stride, bool add) {
    if constexpr (kOut >= 4) {
      const __m256i a = _mm256_unpacklo_epi32(out[0], out[1]), b = _mm256_unpackhi_epi32(out[0], out[1]);
      const __m256i c = _mm256_unpacklo_epi32(out[2], out[3]), d = _mm256_unpackhi_epi32(out[2], out[3]);
      // Of lanes t and t + 4 each.
      const __m256i four[4] = {_mm256_unpacklo_epi64(a, c), _mm256_unpackhi_epi64(a, c),
                               _mm256_unpacklo_epi64(b, d), _mm256_unpackhi_epi64(b, d)};
      for (int t = 0; t < rows; ++t) {
        auto* to = reinterpret_cast<__m128i*>(y + t * y_stride);
        const __m128i sums =
            t < 4 ? _mm256_castsi256_si128(four[t]) : _mm256_extracti128_si256(four[t - 4], 1);
        _mm_storeu_si128(to, add ? _mm_add_epi32(sums, _mm_loadu_si128(to)) : sums);
      }
    }
    for (int i = kOut >= 4 ? 4 : 0; i < kOut; ++i) {
      alignas(32) int32_t lane[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(lane), out[i]);
      for (int t = 0; t < rows; ++t) y[t * y_stride + i] = (add ? y[t * y_stride + i] : 0) + lane[t];
    }
  }
  static __m128i Total4(const I (&a)[4]) { return Total4OfEight(a[0], a[1], a[2], a[3]); }
  static void PutTrits(__m128i sums, int32_t last, int32_t offset, bool add, int32_t* out) {
    PutTritSums(sums, last, offset, add, out);
  }
  static int32_t Total(I a) {
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
  }
};

}  // namespace
}  // namespace omni::kernels
