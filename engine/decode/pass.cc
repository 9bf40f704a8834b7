#include "engine/decode/pass.h"

#include <algorithm>

namespace omni {
namespace {

// About 2.5 us of work on one core: more than what a spinning helper takes to find it. With four times as
// much, steps of sixteen rows of a small model left the helpers idle for most of the time; a step of one row
// took as long with either.
constexpr int64_t kMinRangeCost = int64_t{1} << 18;

}  // namespace

void Pass::Resize(int64_t n) {
  rows = n;
  width_ = PadTo(config.d, 64);
  x_rows_ = x_.Reserve(n * width_);
  h_rows_ = h_.Reserve(n * width_);
  q_.Reserve(n * width_);
  scale_.Reserve(n);
}

void Pass::View(Pass& whole, int64_t first, int64_t n) {
  rows = n;
  width_ = whole.width_;
  x_rows_ = whole.X(first);
  h_rows_ = whole.H(first);
  all_q_ = whole.q_.data() + first * width_;
  all_scale_ = whole.scale_.data() + first;
  scale_.Reserve(n);
}

int64_t Pass::Grain(int64_t cost) { return std::max<int64_t>(1, kMinRangeCost / std::max<int64_t>(1, cost)); }

void Pass::ForRows(int64_t cost, absl::FunctionRef<void(int64_t)> fn) {
  pool.Run(rows, Grain(cost), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) fn(row);
  });
}

QuantizedRows Pass::Quantize(const float* x, int64_t x_stride, int64_t n) {
  const int64_t padded = PadTo(n, 64);
  int8_t* q = q_.Reserve(rows * padded);
  float* scale = scale_.data();
  ForRows(n * kFloatCost,
          [&](int64_t row) { ops.quantize(x + row * x_stride, n, padded, q + row * padded, scale + row); });
  return {q, padded, scale};
}

QuantizedRows Pass::NormAndQuantize(const float* gain, LayerId layer, float LayerChange::*change) {
  return NormAndQuantizeTo(gain, layer, change, q_.Reserve(rows * width_), scale_.data());
}

QuantizedRows Pass::NormAndQuantizeAll(const float* gain, LayerId layer, float LayerChange::*change) {
  return all_q_ == nullptr ? NormAndQuantize(gain, layer, change)
                           : NormAndQuantizeTo(gain, layer, change, all_q_, all_scale_);
}

QuantizedRows Pass::NormAndQuantizeTo(const float* gain, LayerId layer, float LayerChange::*change, int8_t* q,
                                      float* scale) {
  const int64_t d = config.d;
  ForRows(2 * d * kFloatCost, [&](int64_t row) {
    ops.rms_norm(X(row), gain, d, H(row));
    ops.quantize(H(row), d, width_, q + row * width_, scale + row);
  });
  for (const Segment& segment : segments) {
    const LayerChange* changed = segment.Change(layer);
    if (changed == nullptr) continue;
    for (int64_t i = 0; i < segment.count; ++i) scale[segment.first_row + i] *= 1.0f + changed->*change;
  }
  return {q, width_, scale};
}

Products Pass::Multiply(std::initializer_list<const TwoBitLinear*> linears, const QuantizedRows& x) {
  Products products;
  int64_t total_groups = 0, cols = 0;
  int next = 0;
  for (const TwoBitLinear* linear : linears) {
    products.offset[next++] = products.stride;
    products.stride += PadTo(linear->rows, 16);
    total_groups += linear->m.num_groups;
    cols = linear->m.num_blocks * 64;
  }
  int32_t* acc = acc_.Reserve(rows * products.stride);
  products.base = acc;
  const int64_t grain = Grain(rows * kernels::kTwoBitRows * cols);
  pool.Run(total_groups, grain, [&](int64_t begin, int64_t end) {
    int64_t first_group = 0;  // of this matrix, counted over all of them
    int product = 0;
    for (const TwoBitLinear* linear : linears) {
      const int64_t from = std::max<int64_t>(begin - first_group, 0);
      const int64_t to = std::min(end - first_group, linear->m.num_groups);
      if (from < to) {
        ops.two_bit(linear->m, x.q, x.stride, static_cast<int>(rows), acc + products.offset[product],
                    products.stride, from, to);
      }
      first_group += linear->m.num_groups;
      ++product;
    }
  });
  return products;
}

void Pass::AddLinear(const TwoBitLinear& linear, const QuantizedRows& in) {
  const int64_t d = config.d;
  const Products products = Multiply({&linear}, in);
  float* y = y_.Reserve(rows * width_);
  ForRows(2 * d * kFloatCost, [&](int64_t row) {
    float* out = y + row * width_;
    ops.scale_rows(products.Row(0, row), linear.scale, in.scale[row], d, out);
    ops.add(X(row), out, d);
  });
}

}  // namespace omni
