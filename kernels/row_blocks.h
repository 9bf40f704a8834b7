// Products of many rows of x at once, for instruction sets without a dot product of bytes: the rows lie in
// the lanes of a vector, four columns of one row in each, and meet weights that are unpacked once for all
// of them and then broadcast. No sum has to be added up across lanes. As in products.h, W lives in the
// anonymous namespace of the file that is compiled with the flags.
//
// W offers, beside what PairProducts asks for, Store, Broadcast (four bytes to every lane), SubInts and
// StoreLanes<kOut>(out, rows, y, y_stride, add): y[t * y_stride + i] = (add ? itself : 0) + lane t of out[i].
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/op.h"
#include "kernels/unpack.h"

namespace omni::kernels {

template <class W>
struct RowBlocks {
  using I = typename W::I;
  static constexpr int kLaneRows = W::kBytes / 4;  // rows of x in a vector
  static constexpr int kVectors = 2;               // side by side
  static constexpr int kMost = kLaneRows * kVectors;
  static constexpr int kLeast = kLaneRows / 2 + 1;  // rows for which it pays
  // At a time: with as many of the weights, they stay in the first-level cache.
  static constexpr int64_t kColumns = 1024;

  // Up to kCount * kLaneRows rows of x: four columns of row t, from column 4 i on, in lane t of x[i].
  template <int kCount>
  struct Rows {
    alignas(64) I x[kColumns / 4][kCount];
    I sums[kCount];

    Rows(const int8_t* from, int64_t stride, int rows, int64_t columns) {
      auto* to = reinterpret_cast<uint8_t*>(x);
      constexpr int64_t kStep = kCount * W::kBytes;
      for (int t = 0; t < kCount * kLaneRows; ++t, to += 4, from += stride) {
        for (int64_t i = 0; i < columns / 4; ++i) {
          uint32_t four = 0;
          if (t < rows) std::memcpy(&four, from + 4 * i, 4);
          std::memcpy(to + i * kStep, &four, 4);
        }
      }
      Sum(columns);
    }

    void Sum(int64_t columns) {
      for (I& s : sums) s = W::Zero();
      for (int64_t i = 0; i < columns / 4; ++i) {
        for (int v = 0; v < kCount; ++v)
          sums[v] = W::AddInts(sums[v], W::WidenPairs(W::PairSums(W::Fill(1), x[i][v])));
      }
    }
  };

  // acc[i][v] += the products of codes[i][0 .. 4 * quads), of kStage quads each at most 16 bits wide.
  template <int kOut, int64_t kStage, int kCount>
  static void MultiplyCodes(const uint8_t (&codes)[kOut][kColumns], const I (*x)[kCount], int64_t quads,
                            I (&acc)[kOut][kCount]) {
    for (int64_t first = 0; first < quads; first += kStage) {
      const int64_t end = first + kStage < quads ? first + kStage : quads;
      I words[kOut][kCount];
#pragma GCC unroll 5
      for (int i = 0; i < kOut; ++i) {
#pragma GCC unroll 2
        for (int v = 0; v < kCount; ++v) words[i][v] = W::Zero();
      }
      for (int64_t q = first; q < end; ++q) {
#pragma GCC unroll 5
        for (int i = 0; i < kOut; ++i) {
          const I w = W::Broadcast(codes[i] + 4 * q);
#pragma GCC unroll 2
          for (int v = 0; v < kCount; ++v) {
            words[i][v] = W::AddWords(words[i][v], W::PairSums(w, x[q][v]));
            W::Pin(words[i][v]);  // else each is copied on every round
          }
        }
      }
#pragma GCC unroll 5
      for (int i = 0; i < kOut; ++i) {
#pragma GCC unroll 2
        for (int v = 0; v < kCount; ++v) acc[i][v] = W::AddInts(acc[i][v], W::WidenPairs(words[i][v]));
      }
    }
  }

  template <int kOut, int kCount>
  static void Clear(I (&acc)[kOut][kCount]) {
    for (auto& row : acc) {
      for (I& a : row) a = W::Zero();
    }
  }

  // y[t * y_stride + i] = (add ? itself : 0) + lane t of out[i], for `rows` rows.
  template <int kOut, int kCount>
  static void Put(const I (&out)[kOut][kCount], int rows, int32_t* y, int64_t y_stride, bool add) {
    for (int v = 0; v < kCount && v * kLaneRows < rows; ++v) {
      I lanes[kOut];
      for (int i = 0; i < kOut; ++i) lanes[i] = out[i][v];
      const int count = rows - v * kLaneRows < kLaneRows ? rows - v * kLaneRows : kLaneRows;
      W::template StoreLanes<kOut>(lanes, count, y + v * kLaneRows * y_stride, y_stride, add);
    }
  }

  template <int kCount>
  static void TwoBit(const TwoBitMatrix& m, const int8_t* x, int64_t x_stride, int rows, int32_t* y,
                     int64_t y_stride, int64_t begin, int64_t end) {
    constexpr int64_t kStage = 32;
    static_assert(3 * 127 * 2 * kStage <= INT16_MAX);
    const int64_t bytes = m.num_blocks * 64;
    for (int64_t c = 0; c < bytes; c += kColumns) {
      const int64_t columns = bytes - c < kColumns ? bytes - c : kColumns;
      const Rows<kCount> in(x + c, x_stride, rows, columns);
      for (int64_t g = begin; g < end; ++g) {
        alignas(64) uint8_t codes[kTwoBitRows][kColumns];
        const uint8_t* packed = m.base + g * bytes + c;
        for (int64_t j = 0; j < columns; j += W::kBytes) {
          if (j % 64 == 0) __builtin_prefetch(packed + j + bytes, 0, 2);
          I rows_of[kTwoBitRows];
          TwoBitCodes<W>(packed + j, rows_of);
          for (int i = 0; i < kTwoBitRows; ++i) W::Store(codes[i] + j, rows_of[i]);
        }
        I acc[kTwoBitRows][kCount];
        Clear(acc);
        MultiplyCodes<kTwoBitRows, kStage>(codes, in.x, columns / 4, acc);
        for (auto& row : acc) {
          for (int v = 0; v < kCount; ++v) {  // levels are 2 code - 3
            const I twice = W::SubInts(row[v], in.sums[v]);
            row[v] = W::SubInts(W::AddInts(twice, twice), in.sums[v]);
          }
        }
        Put(acc, rows, y + g * kTwoBitRows, y_stride, c > 0);
      }
    }
  }

  template <int kCount>
  static void Ternary(const TernaryMatrix& m, const int8_t* x, int64_t x_stride, int rows, int32_t* y,
                      int64_t y_stride, int64_t begin, int64_t end) {
    constexpr int64_t kStage = 64, kBlocks = kColumns / kTernaryCols;
    static_assert(2 * 127 * 2 * kStage <= INT16_MAX);
    for (int64_t c = 0; c < m.num_blocks; c += kBlocks) {
      const int64_t blocks = m.num_blocks - c < kBlocks ? m.num_blocks - c : kBlocks;
      const int64_t columns = blocks * kTernaryCols;
      const Rows<kCount> in(x + c * kTernaryCols, x_stride, rows, columns);
      for (int64_t g = begin; g < end; ++g) {
        alignas(64) uint8_t codes[kTernaryRows][kColumns];
        for (int64_t b = 0; b < blocks; ++b) {
          const uint8_t* block =
              (m.table ? m.table[c + b] : m.base + (c + b) * m.block_stride) + g * m.group_stride;
          __builtin_prefetch(block + m.group_stride, 0, 2);
          for (int64_t j = 0; j < kTernaryBlockBytes; j += W::kBytes) {
            I trits[kTernaryRows];
            Trits(block + j, trits);
            for (int i = 0; i < kTernaryRows; ++i) W::Store(codes[i] + b * kTernaryCols + j, trits[i]);
          }
        }
        I acc[kTernaryRows][kCount];
        Clear(acc);
        MultiplyCodes<kTernaryRows, kStage>(codes, in.x, columns / 4, acc);
        for (auto& row : acc) {
          for (int v = 0; v < kCount; ++v) row[v] = W::SubInts(row[v], in.sums[v]);  // trits are code - 1
        }
        Put(acc, rows, y + g * kTernaryRows, y_stride, c > 0);
      }
    }
  }

  // See PairProducts::Decode.
  static void Trits(const uint8_t* bytes, I (&trits)[kTernaryRows]) {
    const I b = W::Load(bytes), low = W::Fill(15);
    const I near = W::SubBytes(b, W::Lookup(kTwentySevensBelow, W::And(W::template ShiftRight<4>(b), low)));
    const I r2 = W::MinBytes(near, W::SubBytes(near, W::Fill(27)));
    const I upper = W::And(W::SubBytes(b, r2), low);
    const I r1 = Peel<W>(r2, 9);
    trits[0] = W::Lookup(kMod3, r1);
    trits[1] = W::Lookup(kDiv3, r1);
    trits[2] = W::Lookup(kThirdTrit, W::And(W::SubBytes(r2, r1), low));
    trits[3] = W::Lookup(kFourthTrit, upper);
    trits[4] = W::Lookup(kFifthTrit, upper);
  }

  // Calls run(number of vectors, first row, rows) for the first rows of n; returns how many those are.
  template <class Run>
  static int Take(int n, Run run) {
    int t = 0;
    for (; n - t >= kLeast;) {
      const int rows = n - t < kMost ? n - t : kMost;
      if (rows > kLaneRows) {
        run(std::integral_constant<int, kVectors>{}, t, rows);
      } else {
        run(std::integral_constant<int, 1>{}, t, rows);
      }
      t += rows;
    }
    return t;
  }
};

}  // namespace omni::kernels
