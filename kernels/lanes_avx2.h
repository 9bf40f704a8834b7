// Sixteen float lanes as two AVX registers, for VectorOps. In the including file's anonymous namespace, since
// files differ in the instructions they may use.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/variants.h"
#include "kernels/vector_ops.h"

namespace omni::kernels {
namespace {

struct Lanes {
  struct F {
    __m256 low, high;
  };
  struct Mask {
    __m256i low, high;
    int count;
  };
  static constexpr int kMixRows = 4;

  static Mask FirstN(int n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i limit = _mm256_set1_epi32(n);
    return {_mm256_cmpgt_epi32(limit, lane),
            _mm256_cmpgt_epi32(_mm256_sub_epi32(limit, _mm256_set1_epi32(8)), lane), n};
  }

  static F Load(const float* p, All) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static F Load(const float* p, Mask m) {
    return {_mm256_maskload_ps(p, m.low), _mm256_maskload_ps(p + 8, m.high)};
  }
  static F LoadOr(const float* p, F, All m) { return Load(p, m); }
  static F LoadOr(const float* p, F other, Mask m) {
    const F a = Load(p, m);
    return {Select(other.low, a.low, m.low), Select(other.high, a.high, m.high)};
  }
  static void Store(float* p, F a, All) {
    _mm256_storeu_ps(p, a.low);
    _mm256_storeu_ps(p + 8, a.high);
  }
  static void Store(float* p, F a, Mask m) {
    _mm256_maskstore_ps(p, m.low, a.low);
    _mm256_maskstore_ps(p + 8, m.high, a.high);
  }

  static F LoadHalf(const uint16_t* p, All) {
    const __m128i* q = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
  }
  static F LoadHalf(const uint16_t* p, Mask m) {
    uint16_t all[kLanes] = {};
    std::memcpy(all, p, sizeof(uint16_t) * static_cast<size_t>(m.count));
    return LoadHalf(all, All{});
  }
  static void StoreHalf(uint16_t* p, F a, All) {
    __m128i* q = reinterpret_cast<__m128i*>(p);
    _mm_storeu_si128(q, _mm256_cvtps_ph(a.low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128(q + 1, _mm256_cvtps_ph(a.high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static void StoreHalf(uint16_t* p, F a, Mask m) {
    uint16_t all[kLanes];
    StoreHalf(all, a, All{});
    std::memcpy(p, all, sizeof(uint16_t) * static_cast<size_t>(m.count));
  }

  static void StoreInt8(int8_t* p, F a, All) {
    const __m256i low = _mm256_cvtps_epi32(a.low), high = _mm256_cvtps_epi32(a.high);
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  }
  static void StoreInt8(int8_t* p, F a, Mask m) {
    int8_t all[kLanes];
    StoreInt8(all, a, All{});
    std::memcpy(p, all, static_cast<size_t>(m.count));
  }

  static F LoadInts(const int32_t* p, All) {
    const __m256i* q = reinterpret_cast<const __m256i*>(p);
    return {_mm256_cvtepi32_ps(_mm256_loadu_si256(q)), _mm256_cvtepi32_ps(_mm256_loadu_si256(q + 1))};
  }
  static F LoadInts(const int32_t* p, Mask m) {
    return {_mm256_cvtepi32_ps(_mm256_maskload_epi32(p, m.low)),
            _mm256_cvtepi32_ps(_mm256_maskload_epi32(p + 8, m.high))};
  }
  static F LoadIntsStrided(const int32_t* p, int64_t stride, int count) {
    const Mask m = FirstN(count);
    if (stride == 1) return LoadInts(p, m);
    if (stride == 2 && count == kLanes)
      return {EverySecond<0x88>(p, p + 8), EverySecond<0xdd>(p + 15, p + 23)};
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i index = _mm256_mullo_epi32(lane, _mm256_set1_epi32(static_cast<int>(stride)));
    const __m256i zero = _mm256_setzero_si256();
    return {_mm256_cvtepi32_ps(_mm256_mask_i32gather_epi32(zero, p, index, m.low, 4)),
            _mm256_cvtepi32_ps(_mm256_mask_i32gather_epi32(zero, p + 8 * stride, index, m.high, 4))};
  }

  static F Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F Set(float a) { return {_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
  static F Add(F a, F b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static F Sub(F a, F b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  static F Mul(F a, F b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static F Div(F a, F b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
  static F Fma(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static F FmaIf(F a, F b, F c, All) { return Fma(a, b, c); }
  static F FmaIf(F a, F b, F c, Mask m) {
    const F sum = Fma(a, b, c);
    return {Select(c.low, sum.low, m.low), Select(c.high, sum.high, m.high)};
  }
  static F Min(F a, F b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
  static F Max(F a, F b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
  static F Abs(F a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
  }
  static F Negate(F a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_xor_ps(sign, a.low), _mm256_xor_ps(sign, a.high)};
  }
  static float Sqrt(float a) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(a))); }
  static F TimesPowerOfTwo(F a, F n) {
    return {TimesPowerOfTwo(a.low, n.low), TimesPowerOfTwo(a.high, n.high)};
  }
  static F FromPowerOfTwo(F a, F& m) {
    return {FromPowerOfTwo(a.low, m.low), FromPowerOfTwo(a.high, m.high)};
  }

  static __m128 SumTo4(F a) {
    const __m256 eight = _mm256_add_ps(a.low, a.high);
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
    const __m256 eight = _mm256_max_ps(a.low, a.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }

 private:
  // The even (0x88) or odd (0xdd) ones of eight integers each, as floats.
  template <int kWhich>
  static __m256 EverySecond(const int32_t* a, const int32_t* b) {
    const __m256 low = _mm256_loadu_ps(reinterpret_cast<const float*>(a));
    const __m256 high = _mm256_loadu_ps(reinterpret_cast<const float*>(b));
    const __m256i pairs = _mm256_castps_si256(_mm256_shuffle_ps(low, high, kWhich));
    return _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(pairs, 0xd8));
  }
  static __m256 Select(__m256 off, __m256 on, __m256i m) {
    return _mm256_blendv_ps(off, on, _mm256_castsi256_ps(m));
  }
  static __m256 PowerOfTwo(__m256i e) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23));
  }
  static __m256 TimesPowerOfTwo(__m256 a, __m256 n) {
    const __m256i exponent = _mm256_cvtps_epi32(n);
    const __m256i half = _mm256_srai_epi32(exponent, 1);
    return _mm256_mul_ps(_mm256_mul_ps(a, PowerOfTwo(half)), PowerOfTwo(_mm256_sub_epi32(exponent, half)));
  }
  static __m256 FromPowerOfTwo(__m256 a, __m256& m) {
    const __m256i half_root = _mm256_set1_epi32(kHalfRootBits);
    const __m256i offset = _mm256_sub_epi32(_mm256_castps_si256(a), half_root);
    const __m256i mantissa = _mm256_and_si256(offset, _mm256_set1_epi32(kMantissaBits));
    m = _mm256_castsi256_ps(_mm256_add_epi32(mantissa, half_root));
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(offset, 23));
  }
};

}  // namespace
}  // namespace omni::kernels
