// The device's integer products against the scalar ones, exactly, and what becomes of them in floats, by the
// bit.
#include <functional>

#include "tests/kernels/device_testing.h"

namespace omni::kernels::device {
namespace {

constexpr int64_t kRows[] = {1, 4, 5, 6, 63, 130};
constexpr int64_t kCols[] = {1, 63, 64, 65, 321, 1000};
constexpr int kInputs[] = {1, 2, 4, 5, 8, 9, 64};

// What the weights and the inputs are.
enum class Kind { kRandom, kZero, kMost, kLeast };
constexpr Kind kKinds[] = {Kind::kRandom, Kind::kZero, Kind::kMost, Kind::kLeast};

DeviceRows MakeRows(Random& random, Kind kind, int n, int64_t cols) {
  const int64_t stride = Ceil(cols, 64) * 64;
  std::vector<int8_t> x(static_cast<size_t>(n * stride));
  for (int t = 0; t < n; ++t) {
    for (int64_t j = 0; j < cols; ++j) {
      const int value = kind == Kind::kRandom ? random.Below(255) - 127 : kind == Kind::kZero ? 0 : 127;
      x[static_cast<size_t>(t * stride + j)] = static_cast<int8_t>(value);
    }
  }
  return DeviceRows(n, stride, x, random.Floats(n, 0.0f, 1.0f));
}

// Bytes of codes: any of `codes` of them, where not random the least or the largest.
std::vector<uint8_t> Codes(Random& random, Kind kind, int64_t count, int codes) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  for (uint8_t& byte : bytes) {
    const int code = kind == Kind::kMost ? codes - 1 : kind == Kind::kLeast ? 0 : random.Below(codes);
    byte = static_cast<uint8_t>(code);
  }
  return bytes;
}

// `rows` of each of n sums: exact, and scaled by the bit.
struct Expected {
  std::vector<int32_t> sums;
  std::vector<float> y;
};
Expected Expect(int n, int64_t rows, int64_t padded, const DeviceRows& x, const std::vector<float>& scale,
                const std::function<void(int32_t* y, int64_t stride)>& product) {
  std::vector<int32_t> all(static_cast<size_t>(n * padded));
  product(all.data(), padded);
  Expected expected;
  for (int t = 0; t < n; ++t) {
    for (int64_t i = 0; i < rows; ++i) {
      const int32_t sum = all[static_cast<size_t>(t * padded + i)];
      expected.sums.push_back(sum);
      expected.y.push_back(static_cast<float>(sum) *
                           (x.host_scale[static_cast<size_t>(t)] * scale[static_cast<size_t>(i)]));
    }
  }
  return expected;
}

struct Results {
  Results(int n, int64_t rows, const std::vector<float>& scales)
      : sums(n * rows), y(n * rows), scale(scales) {
    out = {sums.data(), y.data(), rows, scale.data(), rows, 0.0f, false};
  }
  void Compare(const Expected& expected, const std::string& what) const {
    EXPECT_EQ(sums.Get(), expected.sums) << what;
    EXPECT_TRUE(SameBytes(y.Get(), expected.y)) << what;
  }
  Array<int32_t> sums;
  Array<float> y;
  Array<float> scale;
  Output out;
};

class DeviceProductsTest : public DeviceTest {
 protected:
  const Ops& ref = *OpsFor(Isa::kScalar);
  Random random{7};

  void RunTernary(int64_t rows, int64_t cols, int n, Kind kind, bool table) {
    const int64_t blocks = Ceil(cols, 64), groups = Ceil(rows, 5);
    const std::vector<uint8_t> codes = Codes(random, kind, blocks * groups * 64, 243);
    const DeviceRows x = MakeRows(random, kind, n, cols);
    const std::vector<float> scale = random.Floats(rows, -1.0f, 1.0f);
    const Array<uint8_t> bytes(codes);
    TernaryMatrix m;
    m.num_blocks = blocks;
    m.num_groups = groups;
    // By columns if there is a table, in falling order; by groups if not.
    m.block_stride = 64;
    m.group_stride = table ? 64 : blocks * 64;
    std::vector<const uint8_t*> columns, host_columns;
    for (int64_t c = 0; c < blocks; ++c) {
      columns.push_back(bytes.data() + (blocks - 1 - c) * groups * 64);
      host_columns.push_back(codes.data() + (blocks - 1 - c) * groups * 64);
    }
    const Array<const uint8_t*> device_columns(columns);
    TernaryMatrix host = m;
    host.base = codes.data();
    host.table = table ? host_columns.data() : nullptr;
    m.base = bytes.data();
    m.table = table ? device_columns.data() : nullptr;
    const Expected expected = Expect(n, rows, groups * 5, x, scale, [&](int32_t* y, int64_t stride) {
      ref.ternary(host, x.host.data(), x.rows.stride, n, y, stride, 0, groups);
    });
    const Results results(n, rows, scale);
    Ternary(m, x.rows, n, results.out, nullptr);
    results.Compare(expected, Name("ternary", rows, cols, n, kind));
  }

  void RunTwoBit(const std::vector<int64_t>& rows_of, int64_t cols, int n, Kind kind) {
    const int64_t blocks = Ceil(cols, 64);
    const DeviceRows x = MakeRows(random, kind, n, cols);
    TwoBitProducts products;
    std::vector<std::unique_ptr<Array<uint8_t>>> bytes;
    std::vector<std::unique_ptr<Results>> results;
    std::vector<Expected> expected;
    for (int64_t rows : rows_of) {
      const std::vector<uint8_t> codes = Codes(random, kind, blocks * Ceil(rows, 4) * 64, 256);
      const std::vector<float> scale = random.Floats(rows, -1.0f, 1.0f);
      TwoBitMatrix m{codes.data(), blocks, Ceil(rows, 4)};
      expected.push_back(Expect(n, rows, m.num_groups * 4, x, scale, [&](int32_t* y, int64_t stride) {
        ref.two_bit(m, x.host.data(), x.rows.stride, n, y, stride, 0, m.num_groups);
      }));
      bytes.push_back(std::make_unique<Array<uint8_t>>(codes));
      results.push_back(std::make_unique<Results>(n, rows, scale));
      m.base = bytes.back()->data();
      products.of[products.count++] = {m, results.back()->out};
    }
    TwoBit(products, x.rows, n, nullptr);
    for (size_t i = 0; i < rows_of.size(); ++i)
      results[i]->Compare(expected[i], Name("two bit", rows_of[i], cols, n, kind));
  }

  void RunInt8(int64_t rows, int64_t cols, int n, Kind kind) {
    const int64_t padded = Ceil(cols, 64) * 64, stride = padded + 16;
    std::vector<int8_t> weights(static_cast<size_t>(rows * stride));
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        const int w = kind == Kind::kMost ? 127 : kind == Kind::kLeast ? -127 : random.Below(255) - 127;
        weights[static_cast<size_t>(i * stride + j)] = static_cast<int8_t>(w);
      }
    }
    const DeviceRows x = MakeRows(random, kind, n, cols);
    const std::vector<float> scale = random.Floats(rows, -1.0f, 1.0f);
    const Array<int8_t> bytes(weights);
    const Expected expected = Expect(n, rows, rows, x, scale, [&](int32_t* y, int64_t y_stride) {
      ref.int8({weights.data(), stride, padded, rows}, x.host.data(), x.rows.stride, n, y, y_stride, 0, rows);
    });
    const Results results(n, rows, scale);
    Int8({bytes.data(), stride, padded, rows}, x.rows, n, results.out, nullptr);
    results.Compare(expected, Name("int8", rows, cols, n, kind));
  }

  static std::string Name(const char* what, int64_t rows, int64_t cols, int n, Kind kind) {
    return std::string(what) + " " + std::to_string(rows) + " x " + std::to_string(cols) + ", " +
           std::to_string(n) + " rows, kind " + std::to_string(static_cast<int>(kind));
  }
};

TEST_F(DeviceProductsTest, TernaryOfAllShapes) {
  for (int64_t rows : kRows) {
    for (int64_t cols : kCols) {
      for (int n : kInputs) RunTernary(rows, cols, n, Kind::kRandom, (rows + cols + n) % 2 == 0);
    }
  }
}

TEST_F(DeviceProductsTest, TwoBitOfAllShapes) {
  for (int64_t rows : kRows) {
    for (int64_t cols : kCols) {
      for (int n : kInputs) RunTwoBit({rows}, cols, n, Kind::kRandom);
    }
  }
}

TEST_F(DeviceProductsTest, Int8OfAllShapes) {
  for (int64_t rows : kRows) {
    for (int64_t cols : kCols) {
      for (int n : kInputs) RunInt8(rows, cols, n, Kind::kRandom);
    }
  }
}

TEST_F(DeviceProductsTest, SeveralMatricesOfOneInput) {
  RunTwoBit({130, 6, 5, 64}, 192, 1, Kind::kRandom);
  RunTwoBit({7, 130}, 65, 9, Kind::kRandom);
}

TEST_F(DeviceProductsTest, GroupsSharedBetweenWarps) {
  // Wide enough for two and for four warps a group.
  for (int64_t cols : {4096, 4100, 8192}) {
    RunTernary(6, cols, 1, Kind::kRandom, true);
    RunTwoBit({5, 3}, cols, 1, Kind::kRandom);
    RunTwoBit({9}, cols, 5, Kind::kRandom);
  }
}

TEST_F(DeviceProductsTest, ZerosAndTheLargestSums) {
  for (Kind kind : kKinds) {
    RunTernary(6, kMaxCols, 1, kind, false);
    RunTwoBit({5}, kMaxCols, 1, kind);
    RunInt8(2, kMaxCols, 1, kind);
    RunTernary(11, 130, 9, kind, true);
    RunTwoBit({11}, 130, 9, kind);
    RunInt8(11, 130, 9, kind);
  }
}

TEST_F(DeviceProductsTest, AddsAndDivides) {
  const DeviceRows x = MakeRows(random, Kind::kRandom, 1, 64);
  const std::vector<uint8_t> codes = Codes(random, Kind::kRandom, 64, 256);
  const Array<uint8_t> bytes(codes);
  const std::vector<float> scale = random.Floats(4, -1.0f, 1.0f), before = random.Floats(4, -1.0f, 1.0f);
  int32_t sums[4];
  ref.two_bit({codes.data(), 1, 1}, x.host.data(), 64, 1, sums, 4, 0, 1);
  const Array<float> device_scale(scale), y(before);
  TwoBitProducts products;
  products.of[0] = {{bytes.data(), 1, 1}, {nullptr, y.data(), 4, device_scale.data(), 4, 3.0f, true}};
  products.count = 1;
  TwoBit(products, x.rows, 1, nullptr);
  std::vector<float> want;
  for (size_t i = 0; i < 4; ++i)
    want.push_back(before[i] + static_cast<float>(sums[i]) * (x.host_scale[0] * scale[i]) / 3.0f);
  EXPECT_TRUE(SameBytes(y.Get(), want));
}

}  // namespace
}  // namespace omni::kernels::device
