#include "tests/bench/product_fixture.h"

namespace omni::bench {
namespace {

using kernels::Int8Matrix;
using kernels::Ops;
using kernels::TernaryMatrix;
using kernels::TwoBitMatrix;

constexpr int64_t kOutputs = ProductFixture::kRows + 5;  // with the padding of the last group

}  // namespace

ProductFixture::ProductFixture(WorkerPool& pool)
    : pool_(pool),
      memory_(static_cast<size_t>(kBytes)),
      x_(static_cast<size_t>(kMaxInputs * kCols)),
      y_(static_cast<size_t>(kMaxInputs * kOutputs)),
      table_(static_cast<size_t>(kDownCols / 64)) {
  uint64_t state = 1;
  for (size_t i = 0; i < memory_.size(); ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    memory_.data()[i] = static_cast<uint8_t>((state >> 40) % 243);  // a ternary byte, and any other code
  }
  for (size_t i = 0; i < x_.size(); ++i)
    x_.data()[i] = static_cast<uint8_t>(static_cast<int>(i * 31 % 255) - 127);
}

void ProductFixture::Ternary(const Ops& ops, int64_t i, int n) {
  const int64_t groups = (kRows + 4) / 5;
  const TernaryMatrix m{At(i, kTernaryBytes), nullptr, 64, kCols, kCols / 64, groups};
  pool_.Run(groups, 1,
            [&](int64_t b, int64_t e) { ops.ternary(m, X(), kCols, n, y_.data(), kOutputs, b, e); });
}

void ProductFixture::TwoBit(const Ops& ops, int64_t i, int n) {
  const TwoBitMatrix m{At(i, kTwoBitBytes), kCols / 64, kRows / 4};
  pool_.Run(kRows / 4, 1,
            [&](int64_t b, int64_t e) { ops.two_bit(m, X(), kCols, n, y_.data(), kOutputs, b, e); });
}

void ProductFixture::Int8(const Ops& ops, int64_t i, int n) {
  const Int8Matrix m{reinterpret_cast<const int8_t*>(At(i, kInt8Bytes)), kCols, kCols, kRows};
  pool_.Run(kRows, 1, [&](int64_t b, int64_t e) { ops.int8(m, X(), kCols, n, y_.data(), kOutputs, b, e); });
}

void ProductFixture::Down(const Ops& ops, int64_t i, int n) {
  const int64_t groups = (kRows + 4) / 5, tiles = kDownCols / 64;
  for (int64_t c = 0; c < tiles; ++c) table_[static_cast<size_t>(c)] = At(i, kDownBytes) + c * groups * 64;
  const TernaryMatrix m{nullptr, table_.data(), 64, 64, tiles, groups};
  pool_.Run(groups, (groups + pool_.threads() - 1) / pool_.threads(),
            [&](int64_t b, int64_t e) { ops.ternary(m, X(), kCols, n, y_.data(), kOutputs, b, e); });
}

}  // namespace omni::bench
