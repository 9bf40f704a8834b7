// What the machine can do at best, for benchmarks to be measured against.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/op.h"
#include "store/plan/memory_speed.h"

namespace omni::bench {

// Zeroed memory on huge pages where the system grants them.
class HugeBuffer {
 public:
  explicit HugeBuffer(size_t bytes);
  ~HugeBuffer();
  HugeBuffer(const HugeBuffer&) = delete;
  HugeBuffer& operator=(const HugeBuffer&) = delete;
  uint8_t* data() { return data_; }
  const uint8_t* data() const { return data_; }
  size_t size() const { return bytes_; }

 private:
  size_t bytes_;
  uint8_t* data_;
};

using omni::ReadBandwidth;

// Multiply-adds a second of `threads` threads whose loops hold nothing but the dot products of `isa`, on
// registers.
double DotPeak(kernels::Isa isa, int threads);

}  // namespace omni::bench
