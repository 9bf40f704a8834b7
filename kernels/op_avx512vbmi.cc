// AVX-512 (F, BW, VL, VBMI, VNNI). Only reached after op.cc has asked the CPU.
#include <immintrin.h>

#include <cstdint>

#include "kernels/bytes_avx512.h"
#include "kernels/code_sums.h"
#include "kernels/lanes_avx512.h"
#include "kernels/op.h"
#include "kernels/products.h"
#include "kernels/variants.h"
#include "kernels/vector_ops.h"

namespace omni::kernels {
namespace {

constexpr int kSlots = 4;  // products whose sums are finished together

inline __m512i Load64(const void* p) { return _mm512_loadu_si512(p); }

struct Ints4 {
  using I = __m128i;
  static I Add(I a, I b) { return _mm_add_epi32(a, b); }
  static I Sub(I a, I b) { return _mm_sub_epi32(a, b); }
  template <int kBits>
  static I ShiftLeft(I a) {
    return _mm_slli_epi32(a, kBits);
  }
  template <int kBits>
  static I ShiftRight(I a) {
    return _mm_srai_epi32(a, kBits);
  }
  static I Times(I a, uint32_t b) { return _mm_mullo_epi32(a, _mm_set1_epi32(static_cast<int>(b))); }
};

// acc += products of unsigned u and signed x, four to a lane. As an intrinsic g++ 12 copies every accumulator
// twice a step (it changes the vector's type and back), which costs a third of the speed.
inline void AddProducts(__m512i& acc, __m512i u, __m512i x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u), "v"(x));
}

inline __m512i Pair(__m512i a, __m512i b) {  // adds each to itself, halving both: lanes a a b b -> a b
  return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}
inline __m128i SumPairs(__m512i ab, __m512i cd) {
  const __m512i abcd = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(abcd), _mm512_extracti64x4_epi64(abcd, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}
// Lane s of the result is the sum of a[s].
inline __m128i Sum4(const __m512i (&a)[kSlots]) { return SumPairs(Pair(a[0], a[1]), Pair(a[2], a[3])); }

// Lane s is the sum of row s mod kRows of x over `blocks` 64-byte blocks.
template <int kRows>
__m128i RowSums(const int8_t* x, int64_t x_stride, int64_t blocks) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sum[kSlots];
#pragma GCC unroll 4
  for (int s = 0; s < kSlots; ++s) sum[s] = _mm512_setzero_si512();
  for (int64_t c = 0; c < blocks; ++c) {
#pragma GCC unroll 4
    for (int t = 0; t < kRows; ++t) AddProducts(sum[t], ones, Load64(x + t * x_stride + c * 64));
  }
#pragma GCC unroll 4
  for (int s = kRows; s < kSlots; ++s) sum[s] = sum[s % kRows];
  return Sum4(sum);
}

// What to ask for while a block is multiplied. A group's own blocks in the next pass:
struct NextGroups {
  int64_t bytes;
  void operator()(int64_t, int, const uint8_t* block) const { _mm_prefetch(block + bytes, _MM_HINT_T1); }
};

// Columns taken together when they lie apart, and groups, a square, asked for together.
constexpr int64_t kStripe = 16, kSquare = 8;

// Or, of columns that lie apart, a stretch of one after another, which the CPU comes to foresee.
class NextColumns {
 public:
  // `lines` blocks of each of `width` columns, `per_step` at every block multiplied.
  void Begin(const uint8_t* const* columns, int64_t width, int64_t lines, int64_t stride, int64_t steps) {
    column_ = columns, last_ = columns + width, lines_ = lines, stride_ = stride;
    per_step_ = static_cast<int>((width * lines + steps - 1) / steps);
    left_ = lines, at_ = *columns;
  }
  void operator()(int64_t, int, const uint8_t*) {
    for (int i = 0; i < per_step_; ++i) {
      _mm_prefetch(at_, _MM_HINT_T0);
      at_ += stride_;
      if (--left_ > 0) continue;
      left_ = lines_;
      if (column_ + 1 < last_) ++column_;
      at_ = *column_;
    }
  }

 private:
  const uint8_t* const* column_ = nullptr;
  const uint8_t* const* last_ = nullptr;
  const uint8_t* at_ = nullptr;
  int64_t lines_ = 0, left_ = 0, stride_ = 0;
  int per_step_ = 0;
};
// kRows * kGroups products: kRows rows of x times kGroups groups of five matrix rows, summed as SumsOfTrits
// wants them.
template <int kRows, int kGroups, class Ahead>
inline void TernaryPass(const TernaryMatrix& m, const int8_t* x, int64_t x_stride, int64_t group,
                        Ahead& ahead, __m512i (&acc)[kRows * kGroups][kTernarySums]) {
  const __m512i fields_low = Load64(kFourTrits.of);
  const __m512i fields_high = Load64(kFourTrits.of + 64);
  const __m512i c81 = _mm512_set1_epi8(81);
  const __m512i mask0 = _mm512_set1_epi8(0x03), mask1 = _mm512_set1_epi8(0x0c);
#pragma GCC unroll 4
  for (int s = 0; s < kRows * kGroups; ++s) {
#pragma GCC unroll 5
    for (int i = 0; i < kTernarySums; ++i) acc[s][i] = _mm512_setzero_si512();
  }
  for (int64_t c = 0; c < m.num_blocks; ++c) {
    const uint8_t* column = (m.table ? m.table[c] : m.base + c * m.block_stride) + group * m.group_stride;
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) {
      const uint8_t* block = column + g * m.group_stride;
      ahead(c, g, block);
      const __m512i b = Load64(block);
      __m512i r = _mm512_min_epu8(b, _mm512_sub_epi8(b, c81));
      r = _mm512_min_epu8(r, _mm512_sub_epi8(r, c81));
      const __m512i p = _mm512_permutex2var_epi8(fields_low, r, fields_high);
      const __m512i f0 = _mm512_and_si512(p, mask0);
      const __m512i f1 = _mm512_and_si512(p, mask1);
#pragma GCC unroll 4
      for (int t = 0; t < kRows; ++t) {
        const __m512i in = Load64(x + t * x_stride + c * 64);
        __m512i(&sum)[kTernarySums] = acc[g * kRows + t];
        AddProducts(sum[0], f0, in);
        AddProducts(sum[1], f1, in);
        AddProducts(sum[2], r, in);
        AddProducts(sum[3], p, in);
        AddProducts(sum[4], b, in);
      }
    }
  }
}

// kRows rows of x times kGroups groups; slot s is row s mod kRows and group s / kRows.
template <int kRows, int kGroups, class Ahead>
void TernaryTile(const TernaryMatrix& m, const int8_t* x, int64_t x_stride, int32_t* y, int64_t y_stride,
                 int64_t group, __m128i x_sums, bool add, Ahead&& ahead) {
  static_assert(kRows * kGroups <= kSlots);
  __m128i slots[kTernarySums];  // the sums by field
  if constexpr (kRows == 1 && kGroups == 2) {
    __m512i acc[2][kTernarySums];
    TernaryPass<1, 2>(m, x, x_stride, group, ahead, acc);
    const __m512i zero = _mm512_setzero_si512();
#pragma GCC unroll 5
    for (int i = 0; i < kTernarySums; ++i) slots[i] = SumPairs(Pair(acc[0][i], acc[1][i]), zero);
  } else if constexpr (kRows < 3 && kRows * kGroups == kSlots) {
    // Two products and the decoding of one or two blocks at a time fill the registers.
    constexpr int kHalf = kGroups / 2;
    __m512i first[2][kTernarySums], second[2][kTernarySums];
    TernaryPass<kRows, kHalf>(m, x, x_stride, group, ahead, first);
    TernaryPass<kRows, kHalf>(m, x, x_stride, group + kHalf, ahead, second);
#pragma GCC unroll 5
    for (int i = 0; i < kTernarySums; ++i) {
      slots[i] = SumPairs(Pair(first[0][i], first[1][i]), Pair(second[0][i], second[1][i]));
    }
  } else {
    static_assert(kGroups == 1);
    __m512i acc[kRows][kTernarySums];
    TernaryPass<kRows, 1>(m, x, x_stride, group, ahead, acc);
    const __m512i zero = _mm512_setzero_si512();
#pragma GCC unroll 5
    for (int i = 0; i < kTernarySums; ++i) {
      const __m512i a1 = kRows > 1 ? acc[1 % kRows][i] : zero, a2 = kRows > 2 ? acc[2 % kRows][i] : zero,
                    a3 = kRows > 3 ? acc[3 % kRows][i] : zero;
      slots[i] = SumPairs(Pair(acc[0][i], a1), Pair(a2, a3));
    }
  }
  __m128i trits[kTernaryRows];
  SumsOfTrits<Ints4>(slots, trits);
  __m512i low = _mm512_castsi128_si512(_mm_sub_epi32(trits[0], x_sums));
  low = _mm512_inserti32x4(low, _mm_sub_epi32(trits[1], x_sums), 1);
  low = _mm512_inserti32x4(low, _mm_sub_epi32(trits[2], x_sums), 2);
  low = _mm512_inserti32x4(low, _mm_sub_epi32(trits[3], x_sums), 3);
  const __m512i high = _mm512_castsi128_si512(_mm_sub_epi32(trits[4], x_sums));
#pragma GCC unroll 4
  for (int s = 0; s < kRows * kGroups; ++s) {
    const __m512i index = _mm512_setr_epi32(s, s + 4, s + 8, s + 12, s + 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    __m256i five = _mm512_castsi512_si256(_mm512_permutex2var_epi32(low, index, high));
    int32_t* out = y + s % kRows * y_stride + (group + s / kRows) * kTernaryRows;
    if (add) five = _mm256_add_epi32(five, _mm256_maskz_loadu_epi32(0x1f, out));
    _mm256_mask_storeu_epi32(out, 0x1f, five);
  }
}

template <int kRows, int kGroups>
void TwoBitTile(const TwoBitMatrix& m, const int8_t* x, int64_t x_stride, int32_t* y, int64_t y_stride,
                int64_t group, __m128i x_sums) {
  static_assert(kRows * kGroups <= kSlots);
  const __m512i mask0 = _mm512_set1_epi8(0x03), mask1 = _mm512_set1_epi8(0x0c),
                mask2 = _mm512_set1_epi8(0x30);
  __m512i acc0[kSlots], acc1[kSlots], acc2[kSlots], acc_b[kSlots];
#pragma GCC unroll 4
  for (int s = 0; s < kSlots; ++s) acc0[s] = acc1[s] = acc2[s] = acc_b[s] = _mm512_setzero_si512();
  const uint8_t* base = m.base + group * m.num_blocks * 64;
  for (int64_t c = 0; c < m.num_blocks; ++c) {
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) {
      const uint8_t* block = base + (g * m.num_blocks + c) * 64;
      _mm_prefetch(block + kGroups * m.num_blocks * 64, _MM_HINT_T1);
      const __m512i b = Load64(block);
      const __m512i f0 = _mm512_and_si512(b, mask0);
      const __m512i f1 = _mm512_and_si512(b, mask1);
      const __m512i f2 = _mm512_and_si512(b, mask2);
#pragma GCC unroll 4
      for (int t = 0; t < kRows; ++t) {
        const __m512i in = Load64(x + t * x_stride + c * 64);
        const int s = g * kRows + t;
        AddProducts(acc0[s], f0, in);
        AddProducts(acc1[s], f1, in);
        AddProducts(acc2[s], f2, in);
        AddProducts(acc_b[s], b, in);
      }
    }
  }
  const __m128i sums[kTwoBitSums] = {Sum4(acc0), Sum4(acc1), Sum4(acc2), Sum4(acc_b)};
  __m128i c[kTwoBitRows];
  SumsOfLevels<Ints4>(sums, _mm_mullo_epi32(x_sums, _mm_set1_epi32(3)), c);
  const __m128i c01_low = _mm_unpacklo_epi32(c[0], c[1]), c23_low = _mm_unpacklo_epi32(c[2], c[3]);
  const __m128i c01_high = _mm_unpackhi_epi32(c[0], c[1]), c23_high = _mm_unpackhi_epi32(c[2], c[3]);
  const __m128i slot[kSlots] = {_mm_unpacklo_epi64(c01_low, c23_low), _mm_unpackhi_epi64(c01_low, c23_low),
                                _mm_unpacklo_epi64(c01_high, c23_high),
                                _mm_unpackhi_epi64(c01_high, c23_high)};
#pragma GCC unroll 4
  for (int s = 0; s < kRows * kGroups; ++s) {
    int32_t* out = y + s % kRows * y_stride + (group + s / kRows) * kTwoBitRows;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), slot[s]);
  }
}

// Weights are made unsigned by adding 128, which adds 128 times the row's sum of x.
template <int kRows, int kWeightRows>
void Int8Tile(const Int8Matrix& m, const int8_t* x, int64_t x_stride, int32_t* y, int64_t y_stride,
              int64_t row, const int32_t* x_sums) {
  const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
  __m512i acc[kRows][kWeightRows];
#pragma GCC unroll 4
  for (int t = 0; t < kRows; ++t) {
#pragma GCC unroll 8
    for (int i = 0; i < kWeightRows; ++i) acc[t][i] = _mm512_setzero_si512();
  }
  const int8_t* base = m.base + row * m.stride;
  for (int64_t j = 0; j < m.cols_padded; j += 64) {
    __m512i in[kRows];
#pragma GCC unroll 4
    for (int t = 0; t < kRows; ++t) in[t] = Load64(x + t * x_stride + j);
#pragma GCC unroll 8
    for (int i = 0; i < kWeightRows; ++i) {
      const __m512i w = _mm512_xor_si512(Load64(base + i * m.stride + j), flip);
#pragma GCC unroll 4
      for (int t = 0; t < kRows; ++t) AddProducts(acc[t][i], w, in[t]);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < kRows; ++t) {
    const int32_t offset = 128 * x_sums[t];
    int32_t* out = y + t * y_stride + row;
    if constexpr (kWeightRows % 4 == 0) {
#pragma GCC unroll 2
      for (int i = 0; i < kWeightRows; i += 4) {
        const __m512i four[4] = {acc[t][i], acc[t][i + 1], acc[t][i + 2], acc[t][i + 3]};
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                         _mm_sub_epi32(Sum4(four), _mm_set1_epi32(offset)));
      }
    } else {
      for (int i = 0; i < kWeightRows; ++i) out[i] = _mm512_reduce_add_epi32(acc[t][i]) - offset;
    }
  }
}

template <int kRows>
void TernaryRows(const TernaryMatrix& m, const int8_t* x, int64_t x_stride, int32_t* y, int64_t y_stride,
                 int64_t begin, int64_t end, bool add) {
  constexpr int kGroups = kSlots / kRows;
  const __m128i sums = RowSums<kRows>(x, x_stride, m.num_blocks);
  int64_t g = begin;
  for (; g + kGroups <= end; g += kGroups)
    TernaryTile<kRows, kGroups>(m, x, x_stride, y, y_stride, g, sums, add,
                                NextGroups{kGroups > 1 ? kGroups / 2 * m.group_stride : m.group_stride});
  if constexpr (kRows == 1) {
    for (; g + 2 <= end; g += 2)
      TernaryTile<1, 2>(m, x, x_stride, y, y_stride, g, sums, add, NextGroups{2 * m.group_stride});
  }
  if constexpr (kGroups > 1) {
    for (; g < end; ++g)
      TernaryTile<kRows, 1>(m, x, x_stride, y, y_stride, g, sums, add, NextGroups{m.group_stride});
  }
}

// One row of x by a matrix whose columns lie apart, square after square down a stripe of columns.
void TernaryStripes(const TernaryMatrix& m, const int8_t* x, int32_t* y, int64_t begin, int64_t end) {
  if (begin >= end) return;
  const int64_t count = end - begin, squares = (count + kSquare - 1) / kSquare;
  const auto top = [&](int64_t square) {
    return square < squares ? begin + count * square / squares / kSlots * kSlots : end;
  };
  const auto column = [&](int64_t c) { return m.table ? m.table[c] : m.base + c * m.block_stride; };
  const auto width = [&](int64_t first) {
    return m.num_blocks - first < kStripe ? m.num_blocks - first : kStripe;
  };
  NextColumns next;
  const uint8_t* columns[2][kStripe];
  for (int64_t first = 0; first < m.num_blocks; first += kStripe) {
    TernaryMatrix stripe = m;
    stripe.num_blocks = width(first);
    if (m.table) {
      stripe.table = m.table + first;
    } else {
      stripe.base = column(first);
    }
    const int8_t* in = x + first * kTernaryCols;
    const __m128i sums = RowSums<1>(in, 0, stripe.num_blocks);
    for (int64_t square = 0; square < squares; ++square) {
      const bool below = square + 1 < squares;
      const int64_t next_first = below ? first : first + kStripe, next_square = below ? square + 1 : 0;
      const int64_t bottom = top(square + 1);
      int64_t g = top(square);
      if (next_first < m.num_blocks) {
        for (int64_t i = 0; i < width(next_first); ++i)
          columns[square % 2][i] = column(next_first + i) + top(next_square) * m.group_stride;
        next.Begin(columns[square % 2], width(next_first), top(next_square + 1) - top(next_square),
                   m.group_stride, (bottom - g) / kSlots * kSlots * stripe.num_blocks + 1);
      }
      for (; g + kSlots <= bottom; g += kSlots)
        TernaryTile<1, kSlots>(stripe, in, 0, y, 0, g, sums, first > 0, next);
      for (; g < bottom; ++g)
        TernaryTile<1, 1>(stripe, in, 0, y, 0, g, sums, first > 0, NextGroups{m.group_stride});
    }
  }
}

template <int kRows>
void TwoBitRows(const TwoBitMatrix& m, const int8_t* x, int64_t x_stride, int32_t* y, int64_t y_stride,
                int64_t begin, int64_t end) {
  constexpr int kGroups = kSlots / kRows;
  const __m128i sums = RowSums<kRows>(x, x_stride, m.num_blocks);
  int64_t g = begin;
  for (; g + kGroups <= end; g += kGroups) TwoBitTile<kRows, kGroups>(m, x, x_stride, y, y_stride, g, sums);
  if constexpr (kGroups > 1) {
    for (; g < end; ++g) TwoBitTile<kRows, 1>(m, x, x_stride, y, y_stride, g, sums);
  }
}

template <int kRows>
void Int8Rows(const Int8Matrix& m, const int8_t* x, int64_t x_stride, int32_t* y, int64_t y_stride,
              int64_t begin, int64_t end) {
  constexpr int kWeightRows = kRows == 1 ? 8 : 4;
  alignas(16) int32_t lanes[kSlots];
  _mm_store_si128(reinterpret_cast<__m128i*>(lanes), RowSums<kRows>(x, x_stride, m.cols_padded / 64));
  int32_t sums[kRows];
  for (int t = 0; t < kRows; ++t) sums[t] = lanes[t];
  int64_t i = begin;
  for (; i + kWeightRows <= end; i += kWeightRows) {
    Int8Tile<kRows, kWeightRows>(m, x, x_stride, y, y_stride, i, sums);
  }
  for (; i < end; ++i) Int8Tile<kRows, 1>(m, x, x_stride, y, y_stride, i, sums);
}

struct Integers {
  static int64_t DifferingBits(const uint8_t* a, const uint8_t* b, int64_t bytes) {
    return DifferingBitsOf<Bytes>(a, b, bytes);
  }
  static void Ternary(const TernaryMatrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y,
                      int64_t y_stride, int64_t group_begin, int64_t group_end) {
    if (n == 1 && ColumnsApart(m)) {
      TernaryStripes(m, x, y, group_begin, group_end);
      return;
    }
    TernaryPieces(m, n, kSlots, [&](const TernaryMatrix& piece, int64_t column, bool add) {
      Slices<kSlots>(n, piece.num_blocks * 64, 4, group_begin, group_end,
                     [&](auto rows, int t, int64_t b, int64_t e) {
                       TernaryRows<decltype(rows)::kCount>(piece, x + t * x_stride + column, x_stride,
                                                           y + t * y_stride, y_stride, b, e, add);
                     });
    });
  }
  static void TwoBit(const TwoBitMatrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y,
                     int64_t y_stride, int64_t group_begin, int64_t group_end) {
    Slices<kSlots>(
        n, m.num_blocks * 64, 4, group_begin, group_end, [&](auto rows, int t, int64_t b, int64_t e) {
          TwoBitRows<decltype(rows)::kCount>(m, x + t * x_stride, x_stride, y + t * y_stride, y_stride, b, e);
        });
  }
  static void Int8(const Int8Matrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y,
                   int64_t y_stride, int64_t row_begin, int64_t row_end) {
    Slices<kSlots>(n, m.cols_padded, 8, row_begin, row_end, [&](auto rows, int t, int64_t b, int64_t e) {
      Int8Rows<decltype(rows)::kCount>(m, x + t * x_stride, x_stride, y + t * y_stride, y_stride, b, e);
    });
  }
};

}  // namespace

constinit const Ops kAvx512VbmiOps = VectorOps<Lanes>::Table(Isa::kAvx512Vbmi, Integers{});

}  // namespace omni::kernels
