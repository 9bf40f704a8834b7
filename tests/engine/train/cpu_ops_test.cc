// The trainer's products and quantisers, every instruction set against plain loops.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "engine/model/quantize.h"
#include "engine/train/cpu_ops.h"
#include "kernels/cpu.h"

namespace omni::train {
namespace {

bf16 Bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<bf16>(bits >> 16);
}

// Small integers are exact in bf16 and their products exact in float32: results must be equal, not close.
std::vector<bf16> Integers(int64_t n, int seed) {
  std::mt19937 rng(static_cast<unsigned>(seed));
  std::vector<bf16> v(static_cast<size_t>(n));
  for (auto& x : v) x = Bf16(static_cast<float>(static_cast<int>(rng() % 255) - 127));
  return v;
}
float Value(bf16 b) {
  const uint32_t bits = static_cast<uint32_t>(b) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

using kernels::Cpu;
using Flags = std::vector<bool Cpu::*>;

Cpu With(const Flags& flags) {
  Cpu cpu;
  for (bool Cpu::*flag : flags) cpu.*flag = true;
  return cpu;
}

TEST(TrainSupports, NeedsEveryOneOfItsFlags) {
  Flags flags = {&Cpu::keeps_ymm, &Cpu::avx2, &Cpu::fma,   &Cpu::f16c,
                 &Cpu::bmi1,      &Cpu::bmi2, &Cpu::lzcnt, &Cpu::movbe};
  const auto expect_each_needed = [&](bool (*supports)(const Cpu&), const Flags& more) {
    EXPECT_FALSE(supports(With(flags)) && !more.empty());
    flags.insert(flags.end(), more.begin(), more.end());
    EXPECT_TRUE(supports(With(flags)));
    for (size_t i = 0; i < flags.size(); ++i) {
      Flags without = flags;
      without.erase(without.begin() + static_cast<std::ptrdiff_t>(i));
      EXPECT_FALSE(supports(With(without))) << "flag " << i;
    }
  };
  expect_each_needed(SupportsAvx2, {});
  expect_each_needed(SupportsAvx512Bf16, {&Cpu::keeps_zmm, &Cpu::avx512f, &Cpu::avx512bw, &Cpu::avx512cd,
                                          &Cpu::avx512dq, &Cpu::avx512vl, &Cpu::avx512bf16});
  expect_each_needed(SupportsAmx, {&Cpu::amx_tile, &Cpu::amx_bf16, &Cpu::keeps_tiles, &Cpu::granted_tiles});
}

class TrainCpuOps : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    ops_ = OpsNamed(GetParam());
    if (!ops_) GTEST_SKIP() << "this CPU has no " << GetParam();
  }
  const CpuOps* ops_ = nullptr;
};

struct Shape {
  int64_t m, n, k;
};
const Shape kShapes[] = {{1, 1, 2},     {13, 31, 16},  {14, 32, 64}, {15, 33, 66},  {29, 100, 128},
                         {70, 576, 30}, {7, 17, 1030}, {97, 40, 33}, {200, 48, 514}};

TEST_P(TrainCpuOps, ProductsAreExactOnIntegersWhicheverWayTheWeightIsPacked) {
  for (const auto& [m, n, k] : kShapes) {
    const int64_t lda = (k + 1) / 2 * 2;  // rows of A are padded to pairs
    auto a = Integers(m * lda, 1);
    for (int64_t i = 0; i < m && k < lda; ++i) a[static_cast<size_t>(i * lda + k)] = 0;
    const auto w = Integers(n * k, 2);
    std::vector<float> want(static_cast<size_t>(m * n)), scale_m(static_cast<size_t>(m)),
        scale_n(static_cast<size_t>(n));
    for (int64_t i = 0; i < m; ++i) scale_m[static_cast<size_t>(i)] = 0.5f + static_cast<float>(i % 3);
    for (int64_t j = 0; j < n; ++j) scale_n[static_cast<size_t>(j)] = 1.0f + static_cast<float>(j % 2);
    std::vector<bf16> transposed(static_cast<size_t>(n * k));
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        float sum = 0;
        for (int64_t t = 0; t < k; ++t)
          sum += Value(a[static_cast<size_t>(i * lda + t)]) * Value(w[static_cast<size_t>(j * k + t)]);
        want[static_cast<size_t>(i * n + j)] = sum;
      }
    }
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t t = 0; t < k; ++t)
        transposed[static_cast<size_t>(t * n + j)] = w[static_cast<size_t>(j * k + t)];
    }
    std::vector<uint32_t> packed(static_cast<size_t>(PackedPairs(k, n)), 0xdeadbeef), packed2 = packed;
    ops_->pack_transposed(w.data(), k, n, k, packed.data());
    ops_->pack(transposed.data(), n, k, n, packed2.data());
    EXPECT_EQ(packed, packed2);
    for (const auto product : {ops_->gemm, ops_->gemm_codes}) {
      std::vector<float> c(static_cast<size_t>(m * n), 7.0f);
      product(a.data(), lda, m, packed.data(), n, k, nullptr, nullptr, false, c.data(), n);
      EXPECT_EQ(c, want) << m << " x " << n << " x " << k;
      product(a.data(), lda, m, packed.data(), n, k, scale_m.data(), scale_n.data(), true, c.data(), n);
      for (int64_t i = 0; i < m * n; ++i) {
        const auto at = static_cast<size_t>(i);
        ASSERT_EQ(c[at],
                  want[at] * (scale_m[at / static_cast<size_t>(n)] * scale_n[at % static_cast<size_t>(n)]) +
                      want[at]);
      }
    }
  }
}

TEST_P(TrainCpuOps, OuterProductsSumOverAnyNumberOfTokens) {
  for (const int64_t tokens : {0, 1, 2, 511, 513, 1025}) {
    const int64_t m = 30, n = 45;
    const auto a = Integers(tokens * m, 3), b = Integers(tokens * n, 4);
    std::vector<double> want(static_cast<size_t>(m * n), 0);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          want[static_cast<size_t>(i * n + j)] +=
              static_cast<double>(Value(a[static_cast<size_t>(t * m + i)])) *
              Value(b[static_cast<size_t>(t * n + j)]);
        }
      }
    }
    std::vector<float> c(static_cast<size_t>(m * n), 3.0f);
    std::vector<uint32_t> scratch(static_cast<size_t>(GemmTnScratch(m, n)));
    ops_->gemm_tn(a.data(), m, m, b.data(), n, n, tokens, false, c.data(), n, scratch.data());
    for (size_t i = 0; i < c.size(); ++i) ASSERT_EQ(c[i], static_cast<float>(want[i]));
    ops_->gemm_tn(a.data(), m, m, b.data(), n, n, tokens, true, c.data(), n, scratch.data());
    for (size_t i = 0; i < c.size(); ++i) ASSERT_EQ(c[i], static_cast<float>(2 * want[i]));
  }
}

TEST_P(TrainCpuOps, WeightCodesAreThePackersCodes) {
  std::mt19937 rng(5);
  std::normal_distribution<float> normal;
  const int64_t rows = 9, cols = 70;
  std::vector<float> w(static_cast<size_t>(rows * cols)), scale(static_cast<size_t>(rows));
  for (auto& x : w) x = normal(rng);
  std::vector<bf16> codes(w.size());
  std::vector<int8_t> want(static_cast<size_t>(cols));
  ops_->ternary_rows(w.data(), rows, cols, codes.data(), scale.data());
  for (int64_t i = 0; i < rows; ++i) {
    EXPECT_EQ(scale[static_cast<size_t>(i)], Ternarize(w.data() + i * cols, cols, 1, want.data()));
    for (int64_t j = 0; j < cols; ++j)
      ASSERT_EQ(Value(codes[static_cast<size_t>(i * cols + j)]), want[static_cast<size_t>(j)]);
  }
  ops_->two_bit_rows(w.data(), rows, cols, codes.data(), scale.data());
  for (int64_t i = 0; i < rows; ++i) {
    EXPECT_EQ(scale[static_cast<size_t>(i)], 0.5f * TwoBitLevels(w.data() + i * cols, cols, want.data()));
    for (int64_t j = 0; j < cols; ++j)
      ASSERT_EQ(Value(codes[static_cast<size_t>(i * cols + j)]), want[static_cast<size_t>(j)]);
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, TrainCpuOps, ::testing::Values("amx", "avx512bf16", "avx2", "baseline"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace omni::train
