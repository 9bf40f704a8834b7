// Packed matrices that fill more memory than any cache, and rows of x, for timing products: 4096 x 14336, the
// peer's shape, and the second product of a full-size expert from its tiles.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/decode/worker_pool.h"
#include "kernels/op.h"
#include "tests/bench/machine_limits.h"

namespace omni::bench {

class ProductFixture {
 public:
  static constexpr int64_t kRows = 4096, kCols = 14336;
  static constexpr int64_t kDownCols = 11008;  // in 172 tiles
  static constexpr int64_t kBytes = int64_t{320} << 20;
  static constexpr int kMaxInputs = 64;

  explicit ProductFixture(WorkerPool& pool);

  static constexpr int64_t kTernaryBytes = (kRows + 4) / 5 * kCols;
  static constexpr int64_t kTwoBitBytes = kRows / 4 * kCols;
  static constexpr int64_t kDownBytes = (kRows + 4) / 5 * kDownCols;
  static constexpr int64_t kInt8Bytes = kRows * kCols;

  // Each call multiplies n rows of x by one matrix, number i of those that fit: 0 always stays in the cache,
  // 0, 1, 2 … come from memory.
  void Ternary(const kernels::Ops& ops, int64_t i, int n);
  void TwoBit(const kernels::Ops& ops, int64_t i, int n);
  void Int8(const kernels::Ops& ops, int64_t i, int n);
  void Down(const kernels::Ops& ops, int64_t i, int n);  // columns in tiles, ranges as the engine takes them
  const uint8_t* data() const { return memory_.data(); }

 private:
  const uint8_t* At(int64_t i, int64_t bytes) const { return memory_.data() + i % (kBytes / bytes) * bytes; }

  const int8_t* X() const { return reinterpret_cast<const int8_t*>(x_.data()); }

  WorkerPool& pool_;
  HugeBuffer memory_;
  HugeBuffer x_;  // as the engine holds its inputs, from a cache line's start
  std::vector<int32_t> y_;
  std::vector<const uint8_t*> table_;
};

}  // namespace omni::bench
