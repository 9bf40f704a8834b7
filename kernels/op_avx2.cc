// AVX2 with FMA and F16C. Only reached after op.cc has asked the CPU.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/op.h"
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
};

constexpr int64_t kHalf = 32;  // bytes of a vector: half a block

inline __m256i Load32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

// Adds sixteen 16-bit sums, in pairs, to eight 32-bit ones.
inline __m256i Widen(__m256i sum, __m256i words) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
}

inline int32_t Total(__m256i a) {
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}

inline int32_t RowSum(const int8_t* x, int64_t bytes) {
  __m256i sum = _mm256_setzero_si256();
  for (int64_t j = 0; j < bytes; j += kHalf) {
    sum = Widen(sum, _mm256_maddubs_epi16(_mm256_set1_epi8(1), Load32(x + j)));
  }
  return Total(sum);
}

inline __m256i Peel(__m256i v, char power) {
  const __m256i p = _mm256_set1_epi8(power);
  v = _mm256_min_epu8(v, _mm256_sub_epi8(v, p));
  return _mm256_min_epu8(v, _mm256_sub_epi8(v, p));
}

// What one byte b = r2 + 27 t3 + 81 t4 is multiplied as: t0, r1 = t0 + 3 t1, r2 = r1 + 9 t2, t3, t4. All are
// small enough that kTernaryHalves products of pairs fit 16 bits.
constexpr int kTernaryFields = 5;
constexpr int kTernaryHalves = 4;
static_assert(26 * 127 * 2 * kTernaryHalves <= INT16_MAX);

inline void Decode(const uint8_t* bytes, __m256i (&fields)[kTernaryFields]) {
  const __m256i b = Load32(bytes);
  const __m256i r3 = Peel(b, 81);
  const __m256i r2 = Peel(r3, 27);
  const __m256i r1 = Peel(r2, 9);
  // 0, 27, 54 end in the nibbles 0, 11, 6.
  const __m256i third =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0));
  const __m256i mod3 =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0));
  fields[0] = _mm256_shuffle_epi8(mod3, r1);
  fields[1] = r1;
  fields[2] = r2;
  fields[3] = _mm256_shuffle_epi8(third, _mm256_sub_epi8(r3, r2));
  fields[4] = _mm256_and_si256(_mm256_sub_epi8(b, r3), _mm256_set1_epi8(3));  // 81 mod 4 = 1
}

template <int kRows>
void TernaryGroup(const TernaryMatrix& m, const int8_t* x, int64_t x_stride, int32_t* y, int64_t y_stride,
                  int64_t group, const int32_t* x_sums) {
  __m256i acc[kRows][kTernaryFields];
  for (auto& row : acc) {
    for (__m256i& a : row) a = _mm256_setzero_si256();
  }
  for (int64_t first = 0; first < m.num_blocks * 2; first += kTernaryHalves) {
    __m256i fields[kTernaryHalves][kTernaryFields];
    const int halves = static_cast<int>(m.num_blocks * 2 - first < kTernaryHalves ? 2 : kTernaryHalves);
    for (int i = 0; i < halves; i += 2) {
      const int64_t c = (first + i) / 2;
      const uint8_t* block = (m.table ? m.table[c] : m.base + c * m.block_stride) + group * m.group_stride;
      Decode(block, fields[i]);
      Decode(block + kHalf, fields[i + 1]);
    }
#pragma GCC unroll 4
    for (int t = 0; t < kRows; ++t) {
      __m256i words[kTernaryFields];
#pragma GCC unroll 5
      for (__m256i& w : words) w = _mm256_setzero_si256();
      for (int i = 0; i < halves; ++i) {
        const __m256i in = Load32(x + t * x_stride + (first + i) * kHalf);
#pragma GCC unroll 5
        for (int f = 0; f < kTernaryFields; ++f) {
          words[f] = _mm256_add_epi16(words[f], _mm256_maddubs_epi16(fields[i][f], in));
        }
      }
#pragma GCC unroll 5
      for (int f = 0; f < kTernaryFields; ++f) acc[t][f] = Widen(acc[t][f], words[f]);
    }
  }
  for (int t = 0; t < kRows; ++t) {
    const int32_t s0 = Total(acc[t][0]), s1 = Total(acc[t][1]), s2 = Total(acc[t][2]);
    int32_t* out = y + t * y_stride + group * kTernaryRows;
    out[0] = s0 - x_sums[t];
    out[1] = (s1 - s0) / 3 - x_sums[t];
    out[2] = (s2 - s1) / 9 - x_sums[t];
    out[3] = Total(acc[t][3]) - x_sums[t];
    out[4] = Total(acc[t][4]) - x_sums[t];
  }
}

constexpr int64_t kTwoBitBytes = 1024;  // of a row between widenings
static_assert(3 * 127 * 2 * (kTwoBitBytes / kHalf) <= INT16_MAX);

template <int kRows>
void TwoBitGroup(const TwoBitMatrix& m, const int8_t* x, int64_t x_stride, int32_t* y, int64_t y_stride,
                 int64_t group, const int32_t* x_sums) {
  const int64_t bytes = m.num_blocks * 64;
  const uint8_t* base = m.base + group * bytes;
  const __m256i low = _mm256_set1_epi8(3);
  __m256i acc[kRows][kTwoBitRows];
  for (auto& row : acc) {
    for (__m256i& a : row) a = _mm256_setzero_si256();
  }
  for (int64_t first = 0; first < bytes; first += kTwoBitBytes) {
    const int64_t end = first + kTwoBitBytes < bytes ? first + kTwoBitBytes : bytes;
    __m256i words[kRows][kTwoBitRows];
#pragma GCC unroll 2
    for (int t = 0; t < kRows; ++t) {
#pragma GCC unroll 4
      for (int i = 0; i < kTwoBitRows; ++i) words[t][i] = _mm256_setzero_si256();
    }
    for (int64_t j = first; j < end; j += kHalf) {
      const __m256i b = Load32(base + j);
#pragma GCC unroll 4
      for (int i = 0; i < kTwoBitRows; ++i) {
        const __m256i code = _mm256_and_si256(_mm256_srli_epi16(b, 2 * i), low);
#pragma GCC unroll 2
        for (int t = 0; t < kRows; ++t) {
          words[t][i] =
              _mm256_add_epi16(words[t][i], _mm256_maddubs_epi16(code, Load32(x + t * x_stride + j)));
        }
      }
    }
#pragma GCC unroll 2
    for (int t = 0; t < kRows; ++t) {
#pragma GCC unroll 4
      for (int i = 0; i < kTwoBitRows; ++i) acc[t][i] = Widen(acc[t][i], words[t][i]);
    }
  }
  for (int t = 0; t < kRows; ++t) {
    int32_t* out = y + t * y_stride + group * kTwoBitRows;
    for (int i = 0; i < kTwoBitRows; ++i) out[i] = 2 * Total(acc[t][i]) - 3 * x_sums[t];
  }
}

// |w| times x with w's sign: |w| <= 128 and |x| <= 127 keep a pair's sum within 16 bits.
template <int kRows>
void Int8Row(const Int8Matrix& m, const int8_t* x, int64_t x_stride, int32_t* y, int64_t y_stride,
             int64_t row) {
  __m256i acc[kRows];
#pragma GCC unroll 4
  for (__m256i& a : acc) a = _mm256_setzero_si256();
  const int8_t* weights = m.base + row * m.stride;
  for (int64_t j = 0; j < m.cols_padded; j += kHalf) {
    const __m256i w = Load32(weights + j);
    const __m256i magnitude = _mm256_abs_epi8(w);
#pragma GCC unroll 4
    for (int t = 0; t < kRows; ++t) {
      const __m256i in = _mm256_sign_epi8(Load32(x + t * x_stride + j), w);
      acc[t] = Widen(acc[t], _mm256_maddubs_epi16(magnitude, in));
    }
  }
  for (int t = 0; t < kRows; ++t) y[t * y_stride + row] = Total(acc[t]);
}

struct Integers {
  static void Ternary(const TernaryMatrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y,
                      int64_t y_stride, int64_t group_begin, int64_t group_end) {
    Slices<4>(n, m.num_blocks * 64, 1, group_begin, group_end,
              [&](auto rows, int t, int64_t begin, int64_t end) {
                constexpr int kRows = decltype(rows)::kCount;
                int32_t sums[kRows];
                for (int i = 0; i < kRows; ++i) sums[i] = RowSum(x + (t + i) * x_stride, m.num_blocks * 64);
                for (int64_t g = begin; g < end; ++g) {
                  TernaryGroup<kRows>(m, x + t * x_stride, x_stride, y + t * y_stride, y_stride, g, sums);
                }
              });
  }
  static void TwoBit(const TwoBitMatrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y,
                     int64_t y_stride, int64_t group_begin, int64_t group_end) {
    Slices<2>(n, m.num_blocks * 64, 1, group_begin, group_end,
              [&](auto rows, int t, int64_t begin, int64_t end) {
                constexpr int kRows = decltype(rows)::kCount;
                int32_t sums[kRows];
                for (int i = 0; i < kRows; ++i) sums[i] = RowSum(x + (t + i) * x_stride, m.num_blocks * 64);
                for (int64_t g = begin; g < end; ++g) {
                  TwoBitGroup<kRows>(m, x + t * x_stride, x_stride, y + t * y_stride, y_stride, g, sums);
                }
              });
  }
  static void Int8(const Int8Matrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y,
                   int64_t y_stride, int64_t row_begin, int64_t row_end) {
    Slices<4>(n, m.cols_padded, 1, row_begin, row_end, [&](auto rows, int t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        Int8Row<decltype(rows)::kCount>(m, x + t * x_stride, x_stride, y + t * y_stride, y_stride, i);
      }
    });
  }
};

}  // namespace

constinit const Ops kAvx2Ops = VectorOps<Lanes>::Table(Isa::kAvx2, Integers{});

}  // namespace omni::kernels
