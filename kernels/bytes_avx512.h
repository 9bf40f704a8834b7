// Sixty-four bytes as one AVX-512 register, for products.h; in the including file's anonymous namespace. With
// VNNI, Dot too.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/trit_sums.h"

namespace omni::kernels {
namespace {

struct Bytes {
  using I = __m512i;
  static constexpr int64_t kBytes = 64;
  static constexpr int kRegisters = 32;
  static constexpr bool kTakesRowBlocks = false;

  static I Load(const void* p) { return _mm512_loadu_si512(p); }
  static void Pin(I& a) { asm("" : "+v"(a)); }  // a is computed here, in a register
  static I Zero() { return _mm512_setzero_si512(); }
  static I Fill(int b) { return _mm512_set1_epi8(static_cast<char>(b)); }
  static I AddInts(I a, I b) { return _mm512_add_epi32(a, b); }
  static I AddWords(I a, I b) { return _mm512_add_epi16(a, b); }
  static I SubBytes(I a, I b) { return _mm512_sub_epi8(a, b); }
  static I MinBytes(I a, I b) { return _mm512_min_epu8(a, b); }
  static I And(I a, I b) { return _mm512_and_si512(a, b); }
  static I Abs(I a) { return _mm512_abs_epi8(a); }
  static I Sign(I x, I w) {  // -x where w < 0; where w = 0 the magnitude it is multiplied with is 0
    return _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
  }
  static I Xor(I a, I b) { return _mm512_xor_si512(a, b); }
  static I AddBytes(I a, I b) { return _mm512_add_epi8(a, b); }
  static I AddLongs(I a, I b) { return _mm512_add_epi64(a, b); }
  static I SumsOfEight(I a) { return _mm512_sad_epu8(a, _mm512_setzero_si512()); }
  static int64_t TotalLongs(I a) { return _mm512_reduce_add_epi64(a); }
  template <int kBits>
  static I ShiftRight(I a) {
    return _mm512_srli_epi16(a, kBits);
  }
  static I Lookup(const uint8_t (&table)[16], I index) {
    return _mm512_shuffle_epi8(
        _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), index);
  }
  static I PairSums(I u, I x) { return _mm512_maddubs_epi16(u, x); }
  static I WidenPairs(I words) { return _mm512_madd_epi16(words, _mm512_set1_epi16(1)); }
#ifdef __AVX512VNNI__
  static I Dot(I acc, I u, I x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u), "v"(x));  // see bytes_avx2.h
    return acc;
  }
#endif
  static __m256i Halves(I a) {  // added
    return _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
  }
  static __m128i Total4(const I (&a)[4]) {
    return Total4OfEight(Halves(a[0]), Halves(a[1]), Halves(a[2]), Halves(a[3]));
  }
  static void PutTrits(__m128i sums, int32_t last, int32_t offset, bool add, int32_t* out) {
    PutTritSums(sums, last, offset, add, out);
  }
  static int32_t Total(I a) { return _mm512_reduce_add_epi32(a); }
};

}  // namespace
}  // namespace omni::kernels
