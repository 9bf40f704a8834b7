// Integer products against sums over the unpacked weights, exactly, with weights and inputs ending at
// unreadable pages.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/op.h"
#include "tests/kernels/testing.h"

namespace omni::kernels {
namespace {

constexpr int64_t kRows[] = {1, 4, 5, 6, 63, 128, 130};
constexpr int64_t kCols[] = {1, 63, 64, 65, 319, 320, 321, 1000};
constexpr int kInputs[] = {1, 2, 3, 4, 5, 8, 12, 22, 33};
constexpr int32_t kUntouched = 0x5a5a5a5a;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

using Weight = std::function<int(int64_t row, int64_t col)>;
using Input = std::function<int(int64_t row, int64_t col)>;

// n rows of x, padded with zeros to blocks of 64. Rows but the last are at odd addresses.
struct Inputs {
  Inputs(int n, int64_t cols, const Input& value)
      : n(n), padded(CeilDiv(cols, 64) * 64), stride(padded + 7), x((n - 1) * stride + padded) {
    for (int t = 0; t < n; ++t) {
      for (int64_t j = 0; j < cols; ++j) x[t * stride + j] = static_cast<int8_t>(value(t, j));
    }
  }
  int n;
  int64_t padded;
  int64_t stride;
  Guarded<int8_t> x;
};

std::vector<int32_t> Expected(int64_t rows, int64_t cols, Inputs& in, const Weight& weight) {
  std::vector<int32_t> y(static_cast<size_t>(in.n * rows));
  for (int64_t i = 0; i < rows; ++i) {
    std::vector<int> w(static_cast<size_t>(cols));
    for (int64_t j = 0; j < cols; ++j) w[j] = weight(i, j);
    for (int t = 0; t < in.n; ++t) {
      int64_t sum = 0;
      for (int64_t j = 0; j < cols; ++j) sum += w[j] * in.x[t * in.stride + j];
      y[t * rows + i] = static_cast<int32_t>(sum);
    }
  }
  return y;
}

// A ternary matrix in one of three layouts: by groups, by columns, and by a table of separately mapped
// columns.
enum class Layout { kGroups, kColumns, kTable };

struct TernaryFixture {
  TernaryFixture(int64_t rows, int64_t cols, Layout layout, const Weight& weight) {
    m.num_blocks = CeilDiv(cols, 64);
    m.num_groups = CeilDiv(rows, 5);
    constexpr int64_t kOdd = 64 + 3;  // strides that leave blocks unaligned
    m.block_stride = layout == Layout::kGroups ? 64 : m.num_groups * kOdd;
    m.group_stride = layout == Layout::kGroups ? m.num_blocks * 64 + 1 : kOdd;
    if (layout == Layout::kTable) {
      for (int64_t c = 0; c < m.num_blocks; ++c) {
        columns.push_back(std::make_unique<Guarded<uint8_t>>((m.num_groups - 1) * kOdd + 64));
      }
      for (auto& column : columns) table.push_back(column->data());
      m.table = table.data();
    } else {
      const int64_t bytes = (m.num_blocks - 1) * m.block_stride + (m.num_groups - 1) * m.group_stride + 64;
      columns.push_back(std::make_unique<Guarded<uint8_t>>(bytes));
      m.base = columns[0]->data();
    }
    for (int64_t g = 0; g < m.num_groups; ++g) {
      for (int64_t j = 0; j < m.num_blocks * 64; ++j) {
        int code = 0;
        for (int64_t i = 4; i >= 0; --i) {
          const bool inside = 5 * g + i < rows && j < cols;
          code = 3 * code + (inside ? weight(5 * g + i, j) : 0) + 1;
        }
        uint8_t* block = layout == Layout::kTable
                             ? columns[static_cast<size_t>(j / 64)]->data() + g * m.group_stride
                             : columns[0]->data() + j / 64 * m.block_stride + g * m.group_stride;
        block[j % 64] = static_cast<uint8_t>(code);
      }
    }
  }
  TernaryMatrix m;
  std::vector<std::unique_ptr<Guarded<uint8_t>>> columns;
  std::vector<const uint8_t*> table;
};

struct TwoBitFixture {
  TwoBitFixture(int64_t rows, int64_t cols, const Weight& level)
      : bytes(CeilDiv(rows, 4) * CeilDiv(cols, 64) * 64) {
    m.num_blocks = CeilDiv(cols, 64);
    m.num_groups = CeilDiv(rows, 4);
    m.base = bytes.data();
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        const int code = (level(i, j) + 3) / 2;
        bytes[i / 4 * m.num_blocks * 64 + j] |= static_cast<uint8_t>(code << (2 * (i % 4)));
      }
    }
  }
  Guarded<uint8_t> bytes;
  TwoBitMatrix m;
};

struct Int8Fixture {
  Int8Fixture(int64_t rows, int64_t cols, const Weight& weight)
      : padded(CeilDiv(cols, 64) * 64), bytes((rows - 1) * (padded + 5) + padded) {
    m = {bytes.data(), padded + 5, padded, rows};
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) bytes[i * m.stride + j] = static_cast<int8_t>(weight(i, j));
    }
  }
  int64_t padded;
  Guarded<int8_t> bytes;
  Int8Matrix m;
};

using Call = std::function<void(Inputs& in, int32_t* y, int64_t y_stride, int64_t begin, int64_t end)>;

// Runs units [begin, end) of `unit` rows each and checks the sums, and that nothing else was written.
testing::AssertionResult Matches(const std::vector<int32_t>& expected, int64_t rows, int64_t unit, Inputs& in,
                                 int64_t begin, int64_t end, const Call& call) {
  const int64_t padded_rows = CeilDiv(rows, unit) * unit;
  const int64_t y_stride = padded_rows + 3;
  Guarded<int32_t> y((in.n - 1) * y_stride + padded_rows);
  for (int64_t i = 0; i < (in.n - 1) * y_stride + padded_rows; ++i) y[i] = kUntouched;
  call(in, y.data(), y_stride, begin, end);
  for (int t = 0; t < in.n; ++t) {
    for (int64_t i = 0; i < (t + 1 < in.n ? y_stride : padded_rows); ++i) {
      const bool inside = i >= begin * unit && i < end * unit;
      if (inside && i >= rows) continue;
      const int32_t want = inside ? expected[t * rows + i] : kUntouched;
      if (y[t * y_stride + i] != want) {
        return testing::AssertionFailure()
               << "input row " << t << ", row " << i << " of " << rows << ", columns " << in.padded << ": "
               << y[t * y_stride + i] << ", not " << want;
      }
    }
  }
  return testing::AssertionSuccess();
}

class ProductsTest : public EveryIsa {
 protected:
  Call Ternary(const TernaryMatrix& m) {
    return [&](Inputs& in, int32_t* y, int64_t y_stride, int64_t begin, int64_t end) {
      ops().ternary(m, in.x.data(), in.stride, in.n, y, y_stride, begin, end);
    };
  }
  Call TwoBit(const TwoBitMatrix& m) {
    return [&](Inputs& in, int32_t* y, int64_t y_stride, int64_t begin, int64_t end) {
      ops().two_bit(m, in.x.data(), in.stride, in.n, y, y_stride, begin, end);
    };
  }
  Call Int8(const Int8Matrix& m) {
    return [&](Inputs& in, int32_t* y, int64_t y_stride, int64_t begin, int64_t end) {
      ops().int8(m, in.x.data(), in.stride, in.n, y, y_stride, begin, end);
    };
  }
};

template <class Body>
void EachShape(Body body) {
  for (int64_t rows : kRows) {
    for (int64_t cols : kCols) {
      for (int n : kInputs) body(rows, cols, n);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

// A fixed hash of the position: the weight can be asked for again without being stored.
int Hash(int64_t row, int64_t col, int modulus) {
  return Random(static_cast<uint64_t>(row * 1000003 + col)).Below(modulus);
}
int Trit(int64_t row, int64_t col) { return Hash(row, col, 3) - 1; }
int Level(int64_t row, int64_t col) { return 2 * Hash(row, col, 4) - 3; }
int Byte(int64_t row, int64_t col) { return Hash(row, col, 256) - 128; }
int Value(int64_t row, int64_t col) { return Hash(row + 7777, col, 255) - 127; }

TEST_P(ProductsTest, TernaryIsExactInEveryLayout) {
  EachShape([&](int64_t rows, int64_t cols, int n) {
    Inputs in(n, cols, Value);
    const std::vector<int32_t> expected = Expected(rows, cols, in, Trit);
    for (Layout layout : {Layout::kGroups, Layout::kColumns, Layout::kTable}) {
      TernaryFixture w(rows, cols, layout, Trit);
      ASSERT_EQ(CheckTernary(w.m, rows, cols), Error::kOk);
      ASSERT_TRUE(Matches(expected, rows, 5, in, 0, w.m.num_groups, Ternary(w.m)));
    }
  });
}

// Wide enough for every cut that is made of a matrix's columns: by 16, 32, 64 and 128 blocks.
TEST_P(ProductsTest, WideMatricesAreExactInEveryLayout) {
  for (const auto& [rows, cols] :
       {std::pair{int64_t{208}, int64_t{1089}}, {83, 2113}, {7, 11008}, {21, 8257}}) {
    for (int n : {1, 2, 3, 5, 17}) {
      Inputs in(n, cols, Value);
      const std::vector<int32_t> expected = Expected(rows, cols, in, Trit);
      for (Layout layout : {Layout::kGroups, Layout::kColumns, Layout::kTable}) {
        TernaryFixture w(rows, cols, layout, Trit);
        ASSERT_TRUE(Matches(expected, rows, 5, in, 0, w.m.num_groups, Ternary(w.m)));
        const int64_t begin = w.m.num_groups / 3;
        ASSERT_TRUE(Matches(expected, rows, 5, in, begin, w.m.num_groups, Ternary(w.m)));
      }
      TwoBitFixture w(rows, cols, Level);
      ASSERT_TRUE(Matches(Expected(rows, cols, in, Level), rows, 4, in, 0, w.m.num_groups, TwoBit(w.m)));
    }
  }
}

TEST_P(ProductsTest, TwoBitIsExact) {
  EachShape([&](int64_t rows, int64_t cols, int n) {
    Inputs in(n, cols, Value);
    TwoBitFixture w(rows, cols, Level);
    ASSERT_EQ(CheckTwoBit(w.m, rows, cols), Error::kOk);
    ASSERT_TRUE(Matches(Expected(rows, cols, in, Level), rows, 4, in, 0, w.m.num_groups, TwoBit(w.m)));
  });
}

TEST_P(ProductsTest, Int8IsExact) {
  EachShape([&](int64_t rows, int64_t cols, int n) {
    Inputs in(n, cols, Value);
    Int8Fixture w(rows, cols, Byte);
    ASSERT_EQ(CheckInt8(w.m, rows, cols), Error::kOk);
    ASSERT_TRUE(Matches(Expected(rows, cols, in, Byte), rows, 1, in, 0, rows, Int8(w.m)));
  });
}

TEST_P(ProductsTest, RangesWriteTheirOwnRowsOnly) {
  constexpr int64_t kR = 63, kC = 130;
  for (int n : {1, 2, 3, 5, 14}) {
    Inputs in(n, kC, Value);
    TernaryFixture ternary(kR, kC, Layout::kGroups, Trit);
    TwoBitFixture two_bit(kR, kC, Level);
    Int8Fixture int8(kR, kC, Byte);
    const auto ternary_sums = Expected(kR, kC, in, Trit);
    const auto two_bit_sums = Expected(kR, kC, in, Level);
    const auto int8_sums = Expected(kR, kC, in, Byte);
    for (int64_t begin = 0; begin < 13; ++begin) {
      for (int64_t end = begin; end <= 13; ++end) {
        ASSERT_TRUE(Matches(ternary_sums, kR, 5, in, begin, end, Ternary(ternary.m)));
        ASSERT_TRUE(Matches(two_bit_sums, kR, 4, in, begin, end, TwoBit(two_bit.m)));
        ASSERT_TRUE(Matches(int8_sums, kR, 1, in, begin * 4, end * 4, Int8(int8.m)));
      }
    }
  }
}

TEST_P(ProductsTest, SaturatedInputsOverflowNowhere) {
  for (int64_t cols : {int64_t{64}, int64_t{1000}, kMaxCols}) {
    for (int value : {-127, 127}) {
      Inputs same(2, cols, [&](int64_t, int64_t) { return value; });
      Inputs alternating(4, cols, [&](int64_t, int64_t j) { return j % 2 ? value : -value; });
      Inputs many(9, cols, [&](int64_t, int64_t) { return value; });
      for (Inputs* in : {&same, &alternating, &many}) {
        for (int trit : {-1, 0, 1}) {
          const Weight weight = [&](int64_t, int64_t) { return trit; };
          TernaryFixture w(6, cols, Layout::kGroups, weight);
          ASSERT_TRUE(Matches(Expected(6, cols, *in, weight), 6, 5, *in, 0, 2, Ternary(w.m)));
        }
        for (int level : {-3, -1, 1, 3}) {
          const Weight weight = [&](int64_t, int64_t) { return level; };
          TwoBitFixture w(5, cols, weight);
          ASSERT_TRUE(Matches(Expected(5, cols, *in, weight), 5, 4, *in, 0, 2, TwoBit(w.m)));
        }
        for (int byte : {-128, -127, 0, 127}) {
          const Weight weight = [&](int64_t, int64_t) { return byte; };
          Int8Fixture w(9, cols, weight);
          ASSERT_TRUE(Matches(Expected(9, cols, *in, weight), 9, 1, *in, 0, 9, Int8(w.m)));
        }
      }
    }
  }
}

TEST_P(ProductsTest, TernaryKnowsEveryCode) {
  // Input j is 1 at column c alone, so row i's sum is the trit there.
  const Weight weight = [](int64_t row, int64_t col) {
    int64_t code = col % 243;
    for (int64_t i = 0; i < row; ++i) code /= 3;
    return static_cast<int>(code % 3) - 1;
  };
  constexpr int64_t kC = 256;
  TernaryFixture w(5, kC, Layout::kGroups, weight);
  for (int64_t c = 0; c < kC; ++c) {
    Inputs in(1, kC, [&](int64_t, int64_t j) { return j == c ? 1 : 0; });
    ASSERT_TRUE(Matches(Expected(5, kC, in, weight), 5, 5, in, 0, 1, Ternary(w.m))) << "code " << c % 243;
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, ProductsTest, EachIsa(), IsaTestName);

}  // namespace
}  // namespace omni::kernels
