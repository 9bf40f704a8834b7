// AMX tiles for the integer products, AVX-512 (as in op_avx512vbmi.cc) for the rest. Only reached after op.cc
// has asked the CPU and the operating system.
//
// A tile holds 16 rows of 64 bytes: here the blocks of 16 groups of a matrix at one block column, after a
// cheap change of every byte, or 64 inputs of up to 16 rows of x. One instruction multiplies the two for all
// pairs, on a unit of its own, so that sixteen rows of x cost what one costs and the vector units are left
// with decoding.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/code_sums.h"
#include "kernels/lanes_avx512.h"
#include "kernels/op.h"
#include "kernels/variants.h"
#include "kernels/vector_ops.h"

namespace omni::kernels {
namespace {

constexpr int kTile = 16;  // rows of a tile: groups of the matrix, or rows of x
constexpr int64_t kTileBytes = kTile * 64;
constexpr int kFewestRows = 3;         // of x: for fewer, the vector units are as fast
constexpr int64_t kColumnsAhead = 2;   // asked for early
constexpr int64_t kPieceBlocks = 128;  // block columns whose x is packed at a time, 128 KiB of stack

inline __m512i Load64(const void* p) { return _mm512_loadu_si512(p); }

// The tile registers' shapes, until this is gone: 0 to 4 sums, 5 inputs, 6 and 7 weights.
class Tiles {
 public:
  // `groups` and `rows` at a time, at most kTile each.
  Tiles(int groups, int rows) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; ++i) {
      config.rows[i] = static_cast<uint8_t>(i == 5 ? 16 : groups);
      config.bytes[i] = static_cast<uint16_t>(i > 5 ? 64 : 4 * rows);
    }
    asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// The tile instructions do not tell the compiler what memory they read.
inline void WritesDone() { asm volatile("" ::: "memory"); }

// rows[i] lane j <-> rows[j] lane i.
inline void Transpose(__m512i (&rows)[kTile]) {
  __m512i pairs[kTile], fours[kTile];
#pragma GCC unroll 8
  for (int i = 0; i < kTile; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kTile; i += 4) {
    fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
    fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
  // Lane 4q + r of fours[4b + c] is column 4q + c, row 4b + r: what is left is a transposition of 4 x 4
  // quarters.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i low01 = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0x88);
    const __m512i high01 = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0xdd);
    const __m512i low23 = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0x88);
    const __m512i high23 = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0xdd);
    rows[c] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    rows[4 + c] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    rows[8 + c] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
    rows[12 + c] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
  }
}

// Up to kTile rows of x over some block columns, as tiles: four inputs of every row side by side.
struct Inputs {
  const int8_t* tiles;  // kTileBytes a block column
  __m512i sums;         // lane t: of row t
};

// `memory`: kTileBytes for every block.
Inputs PackInputs(const int8_t* x, int64_t x_stride, int n, int64_t blocks, int8_t* memory) {
  const __m512i ones = _mm512_set1_epi8(1);
  alignas(64) int32_t sums[kTile] = {};
  for (int t = 0; t < n; ++t) {
    __m512i sum = _mm512_setzero_si512();
    for (int64_t c = 0; c < blocks; ++c)
      sum = _mm512_dpbusd_epi32(sum, ones, Load64(x + t * x_stride + c * 64));
    sums[t] = _mm512_reduce_add_epi32(sum);
  }
  for (int64_t c = 0; c < blocks; ++c) {
    __m512i rows[kTile];
    for (int t = 0; t < kTile; ++t)
      rows[t] = t < n ? Load64(x + t * x_stride + c * 64) : _mm512_setzero_si512();
    Transpose(rows);
    for (int k = 0; k < kTile; ++k) _mm512_store_si512(memory + c * kTileBytes + k * 64, rows[k]);
  }
  return {memory, _mm512_load_si512(sums)};
}

struct Ints16 {
  using I = __m512i;
  static I Add(I a, I b) { return _mm512_add_epi32(a, b); }
  static I Sub(I a, I b) { return _mm512_sub_epi32(a, b); }
  template <int kBits>
  static I ShiftLeft(I a) {
    return _mm512_slli_epi32(a, kBits);
  }
  template <int kBits>
  static I ShiftRight(I a) {
    return _mm512_srai_epi32(a, kBits);
  }
  static I Times(I a, uint32_t b) { return _mm512_mullo_epi32(a, _mm512_set1_epi32(static_cast<int>(b))); }
};

struct TernaryTiles {
  using Matrix = TernaryMatrix;
  static constexpr int kSums = kTernarySums, kRows = kTernaryRows;

  struct Decoder {
    __m512i fields_low = Load64(kFourTrits.of), fields_high = Load64(kFourTrits.of + 64),
            c81 = _mm512_set1_epi8(81), mask0 = _mm512_set1_epi8(0x03), mask1 = _mm512_set1_epi8(0x0c);
    void operator()(const uint8_t* block, uint8_t* out) const {
      const __m512i b = Load64(block);
      __m512i r = _mm512_min_epu8(b, _mm512_sub_epi8(b, c81));
      r = _mm512_min_epu8(r, _mm512_sub_epi8(r, c81));
      const __m512i p = _mm512_permutex2var_epi8(fields_low, r, fields_high);
      _mm512_store_si512(out, _mm512_and_si512(p, mask0));
      _mm512_store_si512(out + kTileBytes, _mm512_and_si512(p, mask1));
      _mm512_store_si512(out + 2 * kTileBytes, r);
      _mm512_store_si512(out + 3 * kTileBytes, p);
    }
  };

  static void Multiply(const uint8_t* decoded, const uint8_t* blocks, int64_t stride) {
    _tile_loadd(6, decoded, 64);
    _tile_dpbusd(0, 6, 5);
    _tile_loadd(7, decoded + kTileBytes, 64);
    _tile_dpbusd(1, 7, 5);
    _tile_loadd(6, decoded + 2 * kTileBytes, 64);
    _tile_dpbusd(2, 6, 5);
    _tile_loadd(7, decoded + 3 * kTileBytes, 64);
    _tile_dpbusd(3, 7, 5);
    _tile_loadd(6, blocks, stride);
    _tile_dpbusd(4, 6, 5);
  }

  static void Finish(const __m512i (&sum)[kSums], __m512i x_sums, __m512i (&out)[kRows]) {
    SumsOfTrits<Ints16>(sum, out);
#pragma GCC unroll 5
    for (int i = 0; i < kRows; ++i) out[i] = _mm512_sub_epi32(out[i], x_sums);
  }

  static const uint8_t* Column(const Matrix& m, int64_t c) {
    return m.table != nullptr ? m.table[c] : m.base + c * m.block_stride;
  }
  static int64_t GroupStride(const Matrix& m) { return m.group_stride; }
};

// The codes of rows 0 to 2 where they stand in the byte, and the byte itself.
struct TwoBitTiles {
  using Matrix = TwoBitMatrix;
  static constexpr int kSums = kTwoBitSums, kRows = kTwoBitRows;

  struct Decoder {
    __m512i mask0 = _mm512_set1_epi8(0x03), mask1 = _mm512_set1_epi8(0x0c), mask2 = _mm512_set1_epi8(0x30);
    void operator()(const uint8_t* block, uint8_t* out) const {
      const __m512i b = Load64(block);
      _mm512_store_si512(out, _mm512_and_si512(b, mask0));
      _mm512_store_si512(out + kTileBytes, _mm512_and_si512(b, mask1));
      _mm512_store_si512(out + 2 * kTileBytes, _mm512_and_si512(b, mask2));
    }
  };

  static void Multiply(const uint8_t* decoded, const uint8_t* blocks, int64_t stride) {
    _tile_loadd(6, decoded, 64);
    _tile_dpbusd(0, 6, 5);
    _tile_loadd(7, decoded + kTileBytes, 64);
    _tile_dpbusd(1, 7, 5);
    _tile_loadd(6, decoded + 2 * kTileBytes, 64);
    _tile_dpbusd(2, 6, 5);
    _tile_loadd(7, blocks, stride);
    _tile_dpbusd(3, 7, 5);
  }

  static void Finish(const __m512i (&sum)[kSums], __m512i x_sums, __m512i (&out)[kRows]) {
    SumsOfLevels<Ints16>(sum, _mm512_add_epi32(x_sums, _mm512_add_epi32(x_sums, x_sums)), out);
  }

  static const uint8_t* Column(const Matrix& m, int64_t c) { return m.base + c * 64; }
  static int64_t GroupStride(const Matrix& m) { return m.num_blocks * 64; }
};

template <int kSums>
inline void ClearSums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  if constexpr (kSums > 4) _tile_zero(4);
}

template <int kSums>
inline void StoreSums(int32_t (&sums)[kSums][kTile][kTile]) {
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[1], 64);
  _tile_stored(2, sums[2], 64);
  _tile_stored(3, sums[3], 64);
  if constexpr (kSums > 4) _tile_stored(4, sums[4], 64);
}

// out[k * kTile + t] is what row t of y is given (or has added) at y[k], k < count.
void WriteRows(const int32_t* out, int count, int n, int32_t* y, int64_t y_stride, bool add) {
  for (int k = 0; k < count; k += kTile) {
    const int have = count - k < kTile ? count - k : kTile;
    const auto mask = static_cast<__mmask16>((1u << have) - 1);
    __m512i rows[kTile];
    for (int i = 0; i < kTile; ++i)
      rows[i] = i < have ? Load64(out + (k + i) * kTile) : _mm512_setzero_si512();
    Transpose(rows);
    for (int t = 0; t < n; ++t) {
      int32_t* at = y + t * y_stride + k;
      const __m512i before = add ? _mm512_maskz_loadu_epi32(mask, at) : _mm512_setzero_si512();
      _mm512_mask_storeu_epi32(at, mask, _mm512_add_epi32(rows[t], before));
    }
  }
}

// The groups [group, group + groups) of m's block columns [first, end).
template <class P>
void Square(const typename P::Matrix& m, const Inputs& x, int n, int32_t* y, int64_t y_stride, int64_t group,
            int groups, int64_t first, int64_t end, bool add) {
  alignas(64) uint8_t decoded[2][P::kSums - 1][kTileBytes];
  const typename P::Decoder decode;
  const int64_t stride = P::GroupStride(m);
  const auto decode_column = [&](int64_t c) {
    const uint8_t* block = P::Column(m, c) + group * stride;
    const uint8_t* next = P::Column(m, c + kColumnsAhead < end ? c + kColumnsAhead : c) + group * stride;
    uint8_t* out = decoded[c % 2][0];
    for (int g = 0; g < groups; ++g) {
      _mm_prefetch(next + g * stride, _MM_HINT_T0);
      decode(block + g * stride, out + g * 64);
    }
  };
  const auto multiply = [&](int64_t c) {  // one column behind: what it reads has left the store buffer
    _tile_loadd(5, x.tiles + (c - first) * kTileBytes, 64);
    P::Multiply(decoded[c % 2][0], P::Column(m, c) + group * stride, stride);
  };
  ClearSums<P::kSums>();
  decode_column(first);
  for (int64_t c = first + 1; c < end; ++c) {
    WritesDone();
    decode_column(c);
    multiply(c - 1);
  }
  WritesDone();
  multiply(end - 1);
  alignas(64) int32_t sums[P::kSums][kTile][kTile], out[kTile * P::kRows][kTile];
  StoreSums(sums);
  for (int g = 0; g < groups; ++g) {
    __m512i sum[P::kSums], rows[P::kRows];
#pragma GCC unroll 5
    for (int i = 0; i < P::kSums; ++i) sum[i] = _mm512_load_si512(sums[i][g]);
    P::Finish(sum, x.sums, rows);
#pragma GCC unroll 5
    for (int i = 0; i < P::kRows; ++i) _mm512_store_si512(out[g * P::kRows + i], rows[i]);
  }
  WriteRows(out[0], groups * P::kRows, n, y + group * P::kRows, y_stride, add);
}

template <class P>
void Product(const typename P::Matrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y,
             int64_t y_stride, int64_t group_begin, int64_t group_end) {
  alignas(64) int8_t packed[kPieceBlocks * kTileBytes];
  for (int t = 0; t < n; t += kTile) {
    const int rows = n - t < kTile ? n - t : kTile;
    for (int64_t first = 0; first < m.num_blocks; first += kPieceBlocks) {
      const int64_t end = first + kPieceBlocks < m.num_blocks ? first + kPieceBlocks : m.num_blocks;
      const Inputs in = PackInputs(x + t * x_stride + first * 64, x_stride, rows, end - first, packed);
      const auto take = [&](int64_t group, int groups) {
        Square<P>(m, in, rows, y + t * y_stride, y_stride, group, groups, first, end, first > 0);
      };
      int64_t g = group_begin;
      if (g + kTile <= group_end) {
        const Tiles tiles(kTile, rows);
        for (; g + kTile <= group_end; g += kTile) take(g, kTile);
      }
      if (g < group_end) {
        const Tiles tiles(static_cast<int>(group_end - g), rows);
        take(g, static_cast<int>(group_end - g));
      }
    }
  }
}

struct Integers {
  static int64_t DifferingBits(const uint8_t* a, const uint8_t* b, int64_t bytes) {
    return kAvx512VbmiOps.differing_bits(a, b, bytes);
  }
  static void Ternary(const TernaryMatrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y,
                      int64_t y_stride, int64_t group_begin, int64_t group_end) {
    if (n < kFewestRows) {
      kAvx512VbmiOps.ternary(m, x, x_stride, n, y, y_stride, group_begin, group_end);
    } else {
      Product<TernaryTiles>(m, x, x_stride, n, y, y_stride, group_begin, group_end);
    }
  }
  static void TwoBit(const TwoBitMatrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y,
                     int64_t y_stride, int64_t group_begin, int64_t group_end) {
    if (n < kFewestRows) {
      kAvx512VbmiOps.two_bit(m, x, x_stride, n, y, y_stride, group_begin, group_end);
    } else {
      Product<TwoBitTiles>(m, x, x_stride, n, y, y_stride, group_begin, group_end);
    }
  }
  static void Int8(const Int8Matrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y,
                   int64_t y_stride, int64_t row_begin, int64_t row_end) {
    kAvx512VbmiOps.int8(m, x, x_stride, n, y, y_stride, row_begin, row_end);
  }
};

}  // namespace

constinit const Ops kAmxOps = VectorOps<Lanes>::Table(Isa::kAmx, Integers{});

}  // namespace omni::kernels
