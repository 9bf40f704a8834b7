// Sixteen float lanes as one AVX-512 register, for VectorOps. In the including file's anonymous namespace,
// since files differ in the instructions they may use.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/variants.h"
#include "kernels/vector_ops.h"

namespace omni::kernels {
namespace {

struct Lanes {
  using F = __m512;
  using Mask = __mmask16;
  static constexpr int kMixRows = 16;

  static Mask FirstN(int n) { return static_cast<Mask>((1u << n) - 1); }

  static F Load(const float* p, All) { return _mm512_loadu_ps(p); }
  static F Load(const float* p, Mask m) { return _mm512_maskz_loadu_ps(m, p); }
  static F LoadOr(const float* p, F, All) { return _mm512_loadu_ps(p); }
  static F LoadOr(const float* p, F other, Mask m) { return _mm512_mask_loadu_ps(other, m, p); }
  static void Store(float* p, F a, All) { _mm512_storeu_ps(p, a); }
  static void Store(float* p, F a, Mask m) { _mm512_mask_storeu_ps(p, m, a); }

  static F LoadHalf(const uint16_t* p, All) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F LoadHalf(const uint16_t* p, Mask m) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, p)); }
  static __m256i ToHalf(F a) { return _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static void StoreHalf(uint16_t* p, F a, All) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), ToHalf(a));
  }
  static void StoreHalf(uint16_t* p, F a, Mask m) { _mm256_mask_storeu_epi16(p, m, ToHalf(a)); }

  static void StoreInt8(int8_t* p, F a, All) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
  }
  static void StoreInt8(int8_t* p, F a, Mask m) {
    _mm512_mask_cvtepi32_storeu_epi8(p, m, _mm512_cvtps_epi32(a));
  }

  static F LoadInts(const int32_t* p, All) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }
  static F LoadInts(const int32_t* p, Mask m) { return _mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(m, p)); }
  // Gate and up rows lie interleaved, so a stride of 2 is the common one: two loads and a permute beat a
  // gather.
  static F LoadIntsStrided(const int32_t* p, int64_t stride, int count) {
    if (stride == 1) return LoadInts(p, FirstN(count));
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    if (stride == 2) {
      const int ints = 2 * count - 1;
      const __m512i low = _mm512_maskz_loadu_epi32(FirstN(ints < 16 ? ints : 16), p);
      const __m512i high =
          ints <= 16 ? _mm512_setzero_si512() : _mm512_maskz_loadu_epi32(FirstN(ints - 16), p + 16);
      return _mm512_cvtepi32_ps(_mm512_permutex2var_epi32(low, _mm512_add_epi32(lane, lane), high));
    }
    const __m512i index = _mm512_mullo_epi32(lane, _mm512_set1_epi32(static_cast<int>(stride)));
    return _mm512_cvtepi32_ps(
        _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), FirstN(count), index, p, 4));
  }

  static F Zero() { return _mm512_setzero_ps(); }
  static F Set(float a) { return _mm512_set1_ps(a); }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F FmaIf(F a, F b, F c, All) { return _mm512_fmadd_ps(a, b, c); }
  static F FmaIf(F a, F b, F c, Mask m) { return _mm512_mask3_fmadd_ps(a, b, c, m); }
  static F Min(F a, F b) { return _mm512_min_ps(a, b); }
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static F Abs(F a) { return _mm512_abs_ps(a); }
  static F Negate(F a) {
    return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN)));
  }
  static float Sqrt(float a) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(a))); }
  static F TimesPowerOfTwo(F a, F n) { return _mm512_scalef_ps(a, n); }
  static F FromPowerOfTwo(F a, F& m) {
    const __m512i half_root = _mm512_set1_epi32(kHalfRootBits);
    const __m512i offset = _mm512_sub_epi32(_mm512_castps_si512(a), half_root);
    const __m512i mantissa = _mm512_and_si512(offset, _mm512_set1_epi32(kMantissaBits));
    m = _mm512_castsi512_ps(_mm512_add_epi32(mantissa, half_root));
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(offset, 23));
  }

  static __m256 High(F a) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1)); }
  static __m128 SumTo4(F a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), High(a));
    return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  }
  static float Sum(F a) {
    const __m128 four = SumTo4(a);
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static void Sum4(const F (&a)[4], float* out) {
    __m128 r0 = SumTo4(a[0]), r1 = SumTo4(a[1]), r2 = SumTo4(a[2]), r3 = SumTo4(a[3]);
    _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
    _mm_storeu_ps(out, _mm_add_ps(_mm_add_ps(r0, r2), _mm_add_ps(r1, r3)));
  }
  static float MaxLane(F a) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a), High(a));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
};

}  // namespace
}  // namespace omni::kernels
