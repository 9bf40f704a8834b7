// The chooser and the checks at load.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/op.h"

namespace omni::kernels {
namespace {

Isa Best() {
  Isa best = Isa::kScalar;
  for (Isa isa : kAllIsas) best = OpsFor(isa) ? isa : best;
  return best;
}

// ActiveOps decides once per process, so each choice is made in a process of its own.
void ExitWithActiveIsa(const char* wanted) {
  setenv("OMNI_ISA", wanted, 1);
  exit(static_cast<int>(ActiveOps().isa));
}

class ChooserTest : public testing::Test {
 protected:
  void SetUp() override { testing::FLAGS_gtest_death_test_style = "threadsafe"; }
};

TEST_F(ChooserTest, ScalarIsAlwaysThere) {
  ASSERT_NE(OpsFor(Isa::kScalar), nullptr);
  EXPECT_EQ(OpsFor(Isa::kScalar)->isa, Isa::kScalar);
}

TEST_F(ChooserTest, TablesNameTheirIsa) {
  for (Isa isa : kAllIsas) {
    if (const Ops* ops = OpsFor(isa)) {
      EXPECT_EQ(ops->isa, isa);
    }
  }
}

TEST_F(ChooserTest, EnvironmentNamesTheIsa) {
  for (Isa isa : kAllIsas) {
    if (OpsFor(isa) == nullptr) continue;
    EXPECT_EXIT(ExitWithActiveIsa(IsaName(isa)), testing::ExitedWithCode(static_cast<int>(isa)), "^$");
  }
}

TEST_F(ChooserTest, NamesThatAreUnknownOrThatThisCpuLacksFallBackToTheBest) {
  EXPECT_EXIT(ExitWithActiveIsa("sse9"), testing::ExitedWithCode(static_cast<int>(Best())), "^$");
  for (Isa isa : kAllIsas) {
    if (OpsFor(isa) != nullptr) continue;
    EXPECT_EXIT(ExitWithActiveIsa(IsaName(isa)), testing::ExitedWithCode(static_cast<int>(Best())), "^$");
  }
}

TEST_F(ChooserTest, EmptyMeansTheBest) {
  EXPECT_EXIT(ExitWithActiveIsa(""), testing::ExitedWithCode(static_cast<int>(Best())), "^$");
}

class CheckTernaryTest : public testing::Test {
 protected:
  static constexpr int64_t kRows = 12, kCols = 130;  // 3 groups, 3 blocks
  CheckTernaryTest() : bytes_(3 * 3 * 64, kTernaryZeroCode), m_{bytes_.data(), nullptr, 64, 3 * 64, 3, 3} {}
  std::vector<uint8_t> bytes_;
  TernaryMatrix m_;
};

TEST_F(CheckTernaryTest, AcceptsAWholeMatrix) { EXPECT_EQ(CheckTernary(m_, kRows, kCols), Error::kOk); }

TEST_F(CheckTernaryTest, RejectsNull) {
  m_.base = nullptr;
  EXPECT_EQ(CheckTernary(m_, kRows, kCols), Error::kNull);
  const uint8_t* table[3] = {bytes_.data(), bytes_.data() + 192, nullptr};
  m_.table = table;
  m_.group_stride = 64;
  EXPECT_EQ(CheckTernary(m_, kRows, kCols), Error::kNull);
  table[2] = bytes_.data() + 384;
  EXPECT_EQ(CheckTernary(m_, kRows, kCols), Error::kOk);
}

TEST_F(CheckTernaryTest, RejectsShapes) {
  EXPECT_EQ(CheckTernary(m_, 0, kCols), Error::kShape);
  EXPECT_EQ(CheckTernary(m_, kRows, 0), Error::kShape);
  EXPECT_EQ(CheckTernary(m_, -1, kCols), Error::kShape);
  EXPECT_EQ(CheckTernary(m_, 10, kCols), Error::kShape);
  EXPECT_EQ(CheckTernary(m_, 16, kCols), Error::kShape);
  EXPECT_EQ(CheckTernary(m_, kRows, 128), Error::kShape);
  EXPECT_EQ(CheckTernary(m_, kRows, 193), Error::kShape);
  EXPECT_EQ(CheckTernary(m_, kRows, INT64_MAX), Error::kShape);
  EXPECT_EQ(CheckTernary(m_, INT64_MAX, kCols), Error::kShape);
  m_.num_blocks = (kMaxCols + 64) / 64;
  EXPECT_EQ(CheckTernary(m_, kRows, kMaxCols + 64), Error::kShape);
}

TEST_F(CheckTernaryTest, RejectsOverlappingStrides) {
  m_.group_stride = 63;
  EXPECT_EQ(CheckTernary(m_, kRows, kCols), Error::kShape);
  m_.group_stride = 3 * 64;
  m_.block_stride = -64;
  EXPECT_EQ(CheckTernary(m_, kRows, kCols), Error::kShape);
}

TEST_F(CheckTernaryTest, RejectsEveryBadCodeAnywhere) {
  for (int code = 0; code < 256; ++code) {
    for (size_t at : {size_t{0}, size_t{100}, bytes_.size() - 1}) {
      bytes_[at] = static_cast<uint8_t>(code);
      EXPECT_EQ(CheckTernary(m_, kRows, kCols), code < 243 ? Error::kOk : Error::kBadCode)
          << code << " " << at;
      bytes_[at] = kTernaryZeroCode;
    }
  }
}

TEST(CheckTwoBitTest, RejectsNullAndShapes) {
  const std::vector<uint8_t> bytes(2 * 2 * 64);
  TwoBitMatrix m{bytes.data(), 2, 2};
  EXPECT_EQ(CheckTwoBit(m, 7, 100), Error::kOk);
  EXPECT_EQ(CheckTwoBit(m, 9, 100), Error::kShape);
  EXPECT_EQ(CheckTwoBit(m, 4, 100), Error::kShape);
  EXPECT_EQ(CheckTwoBit(m, 7, 64), Error::kShape);
  EXPECT_EQ(CheckTwoBit(m, 7, 129), Error::kShape);
  EXPECT_EQ(CheckTwoBit(m, 0, 100), Error::kShape);
  m.base = nullptr;
  EXPECT_EQ(CheckTwoBit(m, 7, 100), Error::kNull);
}

TEST(CheckInt8Test, RejectsNullAndShapes) {
  const std::vector<int8_t> bytes(3 * 128);
  const Int8Matrix good{bytes.data(), 128, 128, 3};
  EXPECT_EQ(CheckInt8(good, 3, 100), Error::kOk);
  EXPECT_EQ(CheckInt8(good, 3, 128), Error::kOk);
  EXPECT_EQ(CheckInt8(good, 2, 100), Error::kShape);
  EXPECT_EQ(CheckInt8(good, 3, 129), Error::kShape);
  EXPECT_EQ(CheckInt8(good, 3, 64), Error::kShape);
  Int8Matrix m = good;
  m.stride = 127;
  EXPECT_EQ(CheckInt8(m, 3, 100), Error::kShape);
  m = good;
  m.cols_padded = 120;
  EXPECT_EQ(CheckInt8(m, 3, 100), Error::kShape);
  m.base = nullptr;
  EXPECT_EQ(CheckInt8(m, 3, 100), Error::kNull);
}

TEST(ErrorTextTest, EveryErrorHasItsOwnText) {
  const Error all[] = {Error::kOk, Error::kNull, Error::kShape, Error::kBadCode};
  for (Error a : all) {
    for (Error b : all) EXPECT_EQ(a == b, std::string(ErrorText(a)) == ErrorText(b));
  }
}

}  // namespace
}  // namespace omni::kernels
