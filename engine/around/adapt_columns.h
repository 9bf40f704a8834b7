// Tangents as extra columns of the engine's integer products. Internal to adapt_tangents.
//
// A tangent is a row of floats; the products take int8. Each is therefore two columns, its int8 rounding and
// that of what the rounding left: what is lost is below 1/127^2 of its largest element.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/decode/scratch.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/weights.h"
#include "kernels/op.h"

namespace omni {

// `rows` rows of the primal, then `tangents` rows each of high and of low parts.
class TangentColumns {
 public:
  TangentColumns(WorkerPool& pool, const kernels::Ops& ops) : pool_(pool), ops_(ops) {}

  void Resize(int64_t rows, int64_t tangents, int64_t width);
  int64_t count() const { return rows_ + 2 * tangents_; }
  int64_t stride() const { return padded_; }
  int8_t* q(int64_t column) { return q_.data() + column * padded_; }
  float* scale() { return scale_.data(); }
  int64_t high(int64_t tangent) const { return rows_ + tangent; }
  int64_t low(int64_t tangent) const { return rows_ + tangents_ + tangent; }

  void SetPrimal(int64_t row, const float* x) { ops_.quantize(x, width_, padded_, q(row), scale() + row); }
  void SetTangent(int64_t tangent, const float* x);

  // Integer results of a matrix on all columns; Primal and Tangent read them until the next product.
  void Multiply(const TwoBitLinear& linear);
  const int32_t* Sums(int64_t column) const { return acc_.data() + column * acc_stride_; }
  // linear's output, [linear.rows].
  void Primal(const TwoBitLinear& linear, int64_t row, float* out) const {
    ops_.scale_rows(Sums(row), linear.scale, scale_.data()[row], linear.rows, out);
  }
  void Tangent(const TwoBitLinear& linear, int64_t tangent, float* out) const {
    const float high_scale = scale_.data()[high(tangent)], low_scale = scale_.data()[low(tangent)];
    const int32_t *high_sums = Sums(high(tangent)), *low_sums = Sums(low(tangent));
    for (int64_t i = 0; i < linear.rows; ++i) {
      out[i] = (static_cast<float>(high_sums[i]) * high_scale + static_cast<float>(low_sums[i]) * low_scale) *
               linear.scale[i];
    }
  }

 private:
  WorkerPool& pool_;
  const kernels::Ops& ops_;
  int64_t rows_ = 0, tangents_ = 0, width_ = 0, padded_ = 0, acc_stride_ = 0;
  Scratch<int8_t> q_;
  Scratch<float> scale_, rest_;
  Scratch<int32_t> acc_;
};

inline void TangentColumns::Resize(int64_t rows, int64_t tangents, int64_t width) {
  rows_ = rows;
  tangents_ = tangents;
  width_ = width;
  padded_ = PadTo(width, 64);
  q_.Reserve(count() * padded_);
  scale_.Reserve(count());
  rest_.Reserve(tangents * padded_);
}

inline void TangentColumns::SetTangent(int64_t tangent, const float* x) {
  int8_t* first = q(high(tangent));
  float* scale = scale_.data() + high(tangent);
  ops_.quantize(x, width_, padded_, first, scale);
  float* rest = rest_.data() + tangent * padded_;
  for (int64_t i = 0; i < width_; ++i) rest[i] = x[i] - static_cast<float>(first[i]) * *scale;
  ops_.quantize(rest, width_, padded_, q(low(tangent)), scale_.data() + low(tangent));
}

inline void TangentColumns::Multiply(const TwoBitLinear& linear) {
  acc_stride_ = PadTo(linear.rows, 16);
  int32_t* acc = acc_.Reserve(count() * acc_stride_);
  const int64_t groups = linear.m.num_groups;
  pool_.Run(groups, std::max<int64_t>(1, groups / (4 * pool_.threads())), [&](int64_t begin, int64_t end) {
    ops_.two_bit(linear.m, q_.data(), padded_, static_cast<int>(count()), acc, acc_stride_, begin, end);
  });
}

}  // namespace omni
