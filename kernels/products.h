// The integer products of op.h over byte vectors, written once for several instruction sets: PairProducts for
// those that multiply bytes in pairs into saturating 16-bit sums (maddubs), DotProducts for those that sum
// four products into 32 bits (VNNI). As with VectorOps, the vectors W live in the anonymous namespace of the
// file that is compiled with the flags.
//
// W offers I (kBytes bytes), Load, Zero, Fill(byte), SubBytes, MinBytes (unsigned), And,
// ShiftRight<n> (in 16-bit words), Lookup(a 16-byte table, indices below 16), AddWords, AddInts, Total (of
// 32-bit lanes), Abs Sign(x, w) (x with w's sign), Xor, AddBytes, SumsOfEight (bytes, in 64-bit lanes),
// AddLongs, TotalLongs, and PairSums(u, x) / WidenPairs(words) for PairProducts, Dot(acc, u, x) for
// DotProducts. Both of these offer AddProducts(sum, unsigned u, signed x), four products to a 32-bit lane.
// PairProducts also wants Total4 (of four vectors, in four lanes) and PutTrits (trit_sums.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/op.h"
#include "kernels/row_blocks.h"
#include "kernels/unpack.h"
#include "kernels/vector_ops.h"

namespace omni::kernels {

// Bits set in a nibble.
inline constexpr uint8_t kNibbleBits[16] = {0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4};

template <class W>
int64_t DifferingBitsOf(const uint8_t* a, const uint8_t* b, int64_t bytes) {
  using I = typename W::I;
  const I low = W::Fill(15);
  I sum = W::Zero();
  const auto count = [&](const uint8_t* p, const uint8_t* q) {
    const I bits = W::Xor(W::Load(p), W::Load(q));
    const I ones = W::AddBytes(W::Lookup(kNibbleBits, W::And(bits, low)),
                               W::Lookup(kNibbleBits, W::And(W::template ShiftRight<4>(bits), low)));
    sum = W::AddLongs(sum, W::SumsOfEight(ones));
  };
  int64_t i = 0;
  for (; i + W::kBytes <= bytes; i += W::kBytes) count(a + i, b + i);
  if (i < bytes) {
    uint8_t rest[2][W::kBytes] = {};
    __builtin_memcpy(rest[0], a + i, static_cast<size_t>(bytes - i));
    __builtin_memcpy(rest[1], b + i, static_cast<size_t>(bytes - i));
    count(rest[0], rest[1]);
  }
  return W::TotalLongs(sum);
}

// A group's blocks in pieces of one vector.
template <class W>
struct Cut {
  static constexpr int64_t kPerBlock = 64 / W::kBytes;
  static const uint8_t* Of(const TernaryMatrix& m, int64_t group, int64_t i) {
    const int64_t c = i / kPerBlock;
    const uint8_t* column = m.table ? m.table[c] : m.base + c * m.block_stride;
    const uint8_t* block = column + group * m.group_stride + i % kPerBlock * W::kBytes;
    // A group is too short a stretch of memory for the CPU to foresee the next one: it is asked for.
    if (i % kPerBlock == 0) __builtin_prefetch(block + m.group_stride, 0, 2);
    return block;
  }
};

// A matrix whose block columns lie apart, so that a group is as many short pieces of memory.
inline bool ColumnsApart(const TernaryMatrix& m) {
  return m.table != nullptr || m.block_stride != kTernaryBlockBytes;
}

// Calls run(piece, its first column, whether its sums are to be added to what stands in y) for m cut by
// columns: into no more columns that lie apart than a CPU keeps track of, or as many as leave several rows of
// x in the first-level cache.
template <class Run>
void TernaryPieces(const TernaryMatrix& m, int n, int rows_at_once, Run run) {
  const int64_t blocks = ColumnsApart(m) ? 32 : n > rows_at_once ? 64 : m.num_blocks;
  for (int64_t c = 0; c < m.num_blocks; c += blocks) {
    TernaryMatrix piece = m;
    piece.num_blocks = blocks < m.num_blocks - c ? blocks : m.num_blocks - c;
    if (m.table != nullptr) {
      piece.table = m.table + c;
    } else {
      piece.base = m.base + c * m.block_stride;
    }
    run(piece, c * kTernaryCols, c > 0);
  }
}

template <class W>
struct PairProducts {
  using Vector = W;
  using I = typename W::I;
  static constexpr int kTernaryRowsAtOnce = 4, kTwoBitRowsAtOnce = 2, kInt8RowsAtOnce = 4;
  static constexpr bool kTakesRowBlocks = W::kTakesRowBlocks;  // row_blocks.h

  // What one byte b = r2 + 27 t3 + 81 t4 is multiplied as: t0, r1 = t0 + 3 t1, r2 = r1 + 9 t2, t3, t4. With
  // several rows 9 t2 instead of r2: the products of more vectors fit 16 bits a pair. With one, those of
  // kRowVectors do for r2, and those of kMoreVectors for the others.
  static constexpr int kFields = 5, kWide = 2;
  static constexpr int64_t kPer = 64 / W::kBytes;  // vectors of a block
  static constexpr int64_t kRowVectors = 4, kMoreVectors = 16, kRowsBlocks = 6 / kPer;
  static_assert(26 * 127 * 2 * kRowVectors <= INT16_MAX);
  static_assert(18 * 127 * 2 * kRowsBlocks * kPer <= INT16_MAX);
  static_assert(8 * 127 * 2 * kMoreVectors <= INT16_MAX);

  static I Widen(I sum, I words) { return W::AddInts(sum, W::WidenPairs(words)); }

  static I AddProducts(I sum, I u, I x) { return Widen(sum, W::PairSums(u, x)); }

  // b's upper four bits bring it below 27 + 15 by a multiple of 27; every multiple ends in a nibble of its
  // own.
  template <bool kApart>
  static void Decode(const uint8_t* bytes, I (&fields)[kFields]) {
    const I b = W::Load(bytes), low = W::Fill(15);
    const I near = W::SubBytes(b, W::Lookup(kTwentySevensBelow, W::And(W::template ShiftRight<4>(b), low)));
    const I r2 = W::MinBytes(near, W::SubBytes(near, W::Fill(27)));
    const I upper = W::And(W::SubBytes(b, r2), low);
    const I r1 = Peel<W>(r2, 9);
    fields[0] = W::Lookup(kMod3, r1);
    fields[1] = r1;
    fields[2] = kApart ? W::SubBytes(r2, r1) : r2;
    fields[3] = W::Lookup(kFourthTrit, upper);
    fields[4] = W::Lookup(kFifthTrit, upper);
  }

  template <int kRows>
  static void TernaryGroup(const TernaryMatrix& m, const int8_t* x, int64_t x_stride, int32_t* y,
                           int64_t y_stride, int64_t group, const int32_t* x_sums, bool add) {
    if (m.table == nullptr) {
      const uint8_t* first = m.base + group * m.group_stride;
      GroupOf<kRows>(
          m, [&](int64_t c) { return first + c * m.block_stride; }, x, x_stride, y, y_stride, group, x_sums,
          add);
    } else {
      const int64_t at = group * m.group_stride;
      GroupOf<kRows>(
          m, [&](int64_t c) { return m.table[c] + at; }, x, x_stride, y, y_stride, group, x_sums, add);
    }
  }

  // One row's products with kBlocks blocks: every field is multiplied as soon as it is there, since the sums
  // leave few registers for more.
  template <int64_t kBlocks, class Block>
  static void TakeRow(int64_t next_group, Block block, int64_t first, const int8_t* x, I (&acc)[kFields]) {
    I words[kFields];
    for (I& w : words) w = W::Zero();
    constexpr int64_t kVectors = kBlocks * 64 / W::kBytes;
    constexpr int64_t kWidened = (kVectors < kRowVectors ? kVectors : kRowVectors) * W::kBytes / 64;
    for (int64_t c = first; c < first + kBlocks;) {
      for (const int64_t end = c + kWidened; c < end; ++c) {
        const uint8_t* bytes = Ahead(block(c), next_group);
        for (int64_t j = 0; j < 64; j += W::kBytes) {
          I fields[kFields];
          Decode<false>(bytes + j, fields);
          const I in = W::Load(x + c * 64 + j);
#pragma GCC unroll 5
          for (int f = 0; f < kFields; ++f) {
            words[f] = W::AddWords(words[f], W::PairSums(fields[f], in));
            W::Pin(words[f]);  // else all products are kept until they are added up
          }
        }
      }
      acc[kWide] = Widen(acc[kWide], words[kWide]);
      words[kWide] = W::Zero();
    }
#pragma GCC unroll 5
    for (int f = 0; f < kFields; ++f) {
      if (f != kWide) acc[f] = Widen(acc[f], words[f]);
    }
  }

  // Several rows' products with at most kRowsBlocks blocks, which are decoded first.
  template <int kRows, class Block>
  static void TakeRows(int64_t next_group, Block block, int64_t first, int64_t end, const int8_t* x,
                       int64_t x_stride, I (&acc)[kRows][kFields]) {
    I fields[kRowsBlocks * kPer][kFields];
    const int64_t vectors = (end - first) * kPer;
    for (int64_t i = 0; i < vectors; i += kPer) {
      const uint8_t* bytes = Ahead(block(first + i / kPer), next_group);
      for (int64_t j = 0; j < kPer; ++j) Decode<true>(bytes + j * W::kBytes, fields[i + j]);
    }
#pragma GCC unroll 4
    for (int t = 0; t < kRows; ++t) {
      I words[kFields];
#pragma GCC unroll 5
      for (I& w : words) w = W::Zero();
      const int8_t* from = x + t * x_stride + first * 64;
      for (int64_t i = 0; i < vectors; ++i) {
        const I in = W::Load(from + i * W::kBytes);
#pragma GCC unroll 5
        for (int f = 0; f < kFields; ++f) {
          words[f] = W::AddWords(words[f], W::PairSums(fields[i][f], in));
          W::Pin(words[f]);
        }
      }
#pragma GCC unroll 5
      for (int f = 0; f < kFields; ++f) acc[t][f] = Widen(acc[t][f], words[f]);
    }
  }

  // A group is too short a stretch of memory for the CPU to foresee the next one: it is asked for.
  static const uint8_t* Ahead(const uint8_t* block, int64_t next_group) {
    __builtin_prefetch(block + next_group, 0, 2);
    return block;
  }

  template <int kRows, class Block>
  static void GroupOf(const TernaryMatrix& m, Block block, const int8_t* x, int64_t x_stride, int32_t* y,
                      int64_t y_stride, int64_t group, const int32_t* x_sums, bool add) {
    I acc[kRows][kFields];
    for (auto& row : acc) {
      for (I& a : row) a = W::Zero();
    }
    if constexpr (kRows == 1) {
      constexpr int64_t kBlocks = kMoreVectors / kPer;
      int64_t c = 0;
      for (; c + kBlocks <= m.num_blocks; c += kBlocks) TakeRow<kBlocks>(m.group_stride, block, c, x, acc[0]);
      for (; c < m.num_blocks; ++c) TakeRow<1>(m.group_stride, block, c, x, acc[0]);
      const int32_t s0 = W::Total(acc[0][0]), s1 = W::Total(acc[0][1]), s2 = W::Total(acc[0][2]);
      int32_t* out = y + group * kTernaryRows;
      const int32_t trits[kTernaryRows] = {s0, (s1 - s0) / 3, (s2 - s1) / 9, W::Total(acc[0][3]),
                                           W::Total(acc[0][4])};
      for (int i = 0; i < kTernaryRows; ++i) out[i] = (add ? out[i] : 0) + trits[i] - x_sums[0];
    } else {
      for (int64_t c = 0; c < m.num_blocks; c += kRowsBlocks) {
        const int64_t end = c + kRowsBlocks < m.num_blocks ? c + kRowsBlocks : m.num_blocks;
        TakeRows<kRows>(m.group_stride, block, c, end, x, x_stride, acc);
      }
      for (int t = 0; t < kRows; ++t) {
        const I first[4] = {acc[t][0], acc[t][1], acc[t][2], acc[t][3]};
        W::PutTrits(W::Total4(first), W::Total(acc[t][4]), x_sums[t], add,
                    y + t * y_stride + group * kTernaryRows);
      }
    }
  }

  static constexpr int64_t kTwoBitBytes = 32 * W::kBytes;  // of a row between widenings
  static_assert(3 * 127 * 2 * (kTwoBitBytes / W::kBytes) <= INT16_MAX);

  template <int kRows>
  static void TwoBitGroup(const TwoBitMatrix& m, const int8_t* x, int64_t x_stride, int32_t* y,
                          int64_t y_stride, int64_t group, const int32_t* x_sums) {
    const int64_t bytes = m.num_blocks * 64;
    const uint8_t* base = m.base + group * bytes;
    I acc[kRows][kTwoBitRows];
    for (auto& row : acc) {
      for (I& a : row) a = W::Zero();
    }
    for (int64_t first = 0; first < bytes; first += kTwoBitBytes) {
      const int64_t end = first + kTwoBitBytes < bytes ? first + kTwoBitBytes : bytes;
      I words[kRows][kTwoBitRows];
#pragma GCC unroll 2
      for (int t = 0; t < kRows; ++t) {
#pragma GCC unroll 4
        for (int i = 0; i < kTwoBitRows; ++i) words[t][i] = W::Zero();
      }
      for (int64_t j = first; j < end; j += W::kBytes) {
        if (j % 64 == 0) __builtin_prefetch(base + j + bytes, 0, 2);
        I codes[kTwoBitRows];
        TwoBitCodes<W>(base + j, codes);
#pragma GCC unroll 2
        for (int t = 0; t < kRows; ++t) {
          const I in = W::Load(x + t * x_stride + j);
#pragma GCC unroll 4
          for (int i = 0; i < kTwoBitRows; ++i)
            words[t][i] = W::AddWords(words[t][i], W::PairSums(codes[i], in));
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
      for (int i = 0; i < kTwoBitRows; ++i) out[i] = 2 * W::Total(acc[t][i]) - 3 * x_sums[t];
    }
  }
};

template <class W>
struct DotProducts {
  using Vector = W;
  using I = typename W::I;
  // As many as leave their accumulators in registers.
  static constexpr int kTernaryRowsAtOnce = W::kRegisters / 8, kTwoBitRowsAtOnce = W::kRegisters / 8,
                       kInt8RowsAtOnce = 4;
  static constexpr bool kTakesRowBlocks = false;

  static I AddProducts(I sum, I u, I x) { return W::Dot(sum, u, x); }

  // A byte is multiplied as the remainders t0, r1 = t0 + 3 t1, r2 = r1 + 9 t2, r3 = r2 + 27 t3 and b = r3 +
  // 81 t4; the trits' sums follow by subtraction and one exact division each.
  template <int kRows>
  static void TernaryGroup(const TernaryMatrix& m, const int8_t* x, int64_t x_stride, int32_t* y,
                           int64_t y_stride, int64_t group, const int32_t* x_sums, bool add) {
    constexpr int kFields = 5;
    I acc[kRows][kFields];
#pragma GCC unroll 4
    for (auto& row : acc) {
#pragma GCC unroll 5
      for (I& a : row) a = W::Zero();
    }
    const int64_t cuts = m.num_blocks * Cut<W>::kPerBlock;
    for (int64_t i = 0; i < cuts; ++i) {
      const I b = W::Load(Cut<W>::Of(m, group, i));
      const I r3 = Peel<W>(b, 81);
      const I r2 = Peel<W>(r3, 27);
      const I r1 = Peel<W>(r2, 9);
      const I r0 = W::Lookup(kMod3, r1);
#pragma GCC unroll 4
      for (int t = 0; t < kRows; ++t) {
        const I in = W::Load(x + t * x_stride + i * W::kBytes);
        acc[t][0] = W::Dot(acc[t][0], r0, in);
        acc[t][1] = W::Dot(acc[t][1], r1, in);
        acc[t][2] = W::Dot(acc[t][2], r2, in);
        acc[t][3] = W::Dot(acc[t][3], r3, in);
        acc[t][4] = W::Dot(acc[t][4], b, in);
      }
    }
    for (int t = 0; t < kRows; ++t) {
      int32_t sums[kFields];
      for (int f = 0; f < kFields; ++f) sums[f] = W::Total(acc[t][f]);
      int32_t* out = y + t * y_stride + group * kTernaryRows;
      for (int f = 0, power = 1; f < kFields; ++f, power *= 3) {
        const int32_t trit = f == 0 ? sums[0] : (sums[f] - sums[f - 1]) / power;
        out[f] = (add ? out[f] : 0) + trit - x_sums[t];
      }
    }
  }

  template <int kRows>
  static void TwoBitGroup(const TwoBitMatrix& m, const int8_t* x, int64_t x_stride, int32_t* y,
                          int64_t y_stride, int64_t group, const int32_t* x_sums) {
    const int64_t bytes = m.num_blocks * 64;
    const uint8_t* base = m.base + group * bytes;
    I acc[kRows][kTwoBitRows];
#pragma GCC unroll 4
    for (auto& row : acc) {
#pragma GCC unroll 4
      for (I& a : row) a = W::Zero();
    }
    for (int64_t j = 0; j < bytes; j += W::kBytes) {
      if (j % 64 == 0) __builtin_prefetch(base + j + bytes, 0, 2);
      I codes[kTwoBitRows];
      TwoBitCodes<W>(base + j, codes);
#pragma GCC unroll 4
      for (int t = 0; t < kRows; ++t) {
        const I in = W::Load(x + t * x_stride + j);
#pragma GCC unroll 4
        for (int i = 0; i < kTwoBitRows; ++i) acc[t][i] = W::Dot(acc[t][i], codes[i], in);
      }
    }
    for (int t = 0; t < kRows; ++t) {
      int32_t* out = y + t * y_stride + group * kTwoBitRows;
      for (int i = 0; i < kTwoBitRows; ++i) out[i] = 2 * W::Total(acc[t][i]) - 3 * x_sums[t];
    }
  }
};

// Op's products from the groups of one of the two above.
template <class P>
struct ProductsByGroup {
  using W = typename P::Vector;
  using I = typename W::I;

  static int32_t RowSum(const int8_t* x, int64_t bytes) {
    I sum = W::Zero();
    for (int64_t j = 0; j < bytes; j += W::kBytes) sum = P::AddProducts(sum, W::Fill(1), W::Load(x + j));
    return W::Total(sum);
  }

  // |w| times x with w's sign: |w| <= 128 and |x| <= 127 keep the sum of a pair within 16 bits.
  template <int kRows>
  static void Int8Row(const Int8Matrix& m, const int8_t* x, int64_t x_stride, int32_t* y, int64_t y_stride,
                      int64_t row) {
    I acc[kRows];
#pragma GCC unroll 4
    for (I& a : acc) a = W::Zero();
    const int8_t* weights = m.base + row * m.stride;
    for (int64_t j = 0; j < m.cols_padded; j += W::kBytes) {
      const I w = W::Load(weights + j);
      const I magnitude = W::Abs(w);
#pragma GCC unroll 4
      for (int t = 0; t < kRows; ++t) {
        acc[t] = P::AddProducts(acc[t], magnitude, W::Sign(W::Load(x + t * x_stride + j), w));
      }
    }
    for (int t = 0; t < kRows; ++t) y[t * y_stride + row] = W::Total(acc[t]);
  }

  static int64_t DifferingBits(const uint8_t* a, const uint8_t* b, int64_t bytes) {
    return DifferingBitsOf<W>(a, b, bytes);
  }
  template <int kRows, class Group>
  static void WithSums(const int8_t* x, int64_t x_stride, int64_t bytes, int64_t begin, int64_t end,
                       Group group) {
    int32_t sums[kRows];
    for (int i = 0; i < kRows; ++i) sums[i] = RowSum(x + i * x_stride, bytes);
    for (int64_t g = begin; g < end; ++g) group(g, sums);
  }
  // Calls run(vectors, x, rows, y) for the rows that are taken in blocks; leaves x, n and y at the others.
  template <class Run>
  static void TakeBlocks(const int8_t*& x, int64_t x_stride, int& n, int32_t*& y, int64_t y_stride, Run run) {
    if constexpr (P::kTakesRowBlocks) {
      const int taken = RowBlocks<W>::Take(n, [&](auto count, int first, int rows) {
        run(count, x + first * x_stride, rows, y + first * y_stride);
      });
      x += taken * x_stride;
      y += taken * y_stride;
      n -= taken;
    }
  }
  static void Ternary(const TernaryMatrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y,
                      int64_t y_stride, int64_t group_begin, int64_t group_end) {
    TakeBlocks(x, x_stride, n, y, y_stride, [&](auto count, const int8_t* in, int rows, int32_t* out) {
      RowBlocks<W>::template Ternary<count>(m, in, x_stride, rows, out, y_stride, group_begin, group_end);
    });
    TernaryPieces(m, n, P::kTernaryRowsAtOnce, [&](const TernaryMatrix& piece, int64_t column, bool add) {
      const int64_t bytes = piece.num_blocks * 64;
      Slices<P::kTernaryRowsAtOnce>(
          n, bytes, 1, group_begin, group_end, [&](auto rows, int t, int64_t b, int64_t e) {
            constexpr int kRows = decltype(rows)::kCount;
            const int8_t* in = x + t * x_stride + column;
            WithSums<kRows>(in, x_stride, bytes, b, e, [&](int64_t g, const int32_t* sums) {
              P::template TernaryGroup<kRows>(piece, in, x_stride, y + t * y_stride, y_stride, g, sums, add);
            });
          });
    });
  }
  static void TwoBit(const TwoBitMatrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y,
                     int64_t y_stride, int64_t group_begin, int64_t group_end) {
    TakeBlocks(x, x_stride, n, y, y_stride, [&](auto count, const int8_t* in, int rows, int32_t* out) {
      RowBlocks<W>::template TwoBit<count>(m, in, x_stride, rows, out, y_stride, group_begin, group_end);
    });
    const int64_t bytes = m.num_blocks * 64;
    Slices<P::kTwoBitRowsAtOnce>(
        n, bytes, 1, group_begin, group_end, [&](auto rows, int t, int64_t b, int64_t e) {
          constexpr int kRows = decltype(rows)::kCount;
          WithSums<kRows>(x + t * x_stride, x_stride, bytes, b, e, [&](int64_t g, const int32_t* sums) {
            P::template TwoBitGroup<kRows>(m, x + t * x_stride, x_stride, y + t * y_stride, y_stride, g,
                                           sums);
          });
        });
  }
  static void Int8(const Int8Matrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y,
                   int64_t y_stride, int64_t row_begin, int64_t row_end) {
    Slices<P::kInt8RowsAtOnce>(
        n, m.cols_padded, 1, row_begin, row_end, [&](auto rows, int t, int64_t b, int64_t e) {
          for (int64_t i = b; i < e; ++i) {
            Int8Row<decltype(rows)::kCount>(m, x + t * x_stride, x_stride, y + t * y_stride, y_stride, i);
          }
        });
  }
};

}  // namespace omni::kernels
