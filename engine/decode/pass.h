// What the parts of one pass share: the batch's rows, the residual stream, the quantised inputs and the
// products. Internal to the decoder.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include <absl/functional/function_ref.h>

#include "engine/decode/row_adapter.h"
#include "engine/decode/scratch.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/session_state.h"
#include "engine/model/weights.h"
#include "kernels/op.h"

namespace omni {

// Adjacent rows of one session: tokens position, position + 1, ... of its sequence. Or one row aside.
struct Segment {
  SessionState* state = nullptr;
  int64_t first_row = 0, count = 0, position = 0;
  const RowAdapter* adapter = nullptr;
  bool aside = false;  // its state stays as it is before the pass

  // What it changes of a layer; null: nothing.
  const LayerChange* Change(LayerId layer) const {
    return adapter == nullptr || adapter->layers.empty() ? nullptr : &adapter->layers[layer.index()];
  }
};

// Where those end that use the state of segments[begin]: rows aside, then the session's own. Of the pass's
// other segments none does.
inline size_t EndOfState(std::span<const Segment> segments, size_t begin) {
  size_t end = begin + 1;
  while (end < segments.size() && segments[end].state == segments[begin].state) ++end;
  return end;
}

// Integer results of several matrices on the same input: product i of batch row t at Row(i, t).
struct Products {
  const int32_t* base = nullptr;
  int64_t stride = 0;
  std::array<int64_t, 4> offset = {};
  const int32_t* Row(int product, int64_t row) const { return base + row * stride + offset[product]; }
};

// int8 rows with one scale each: row t at q + t * stride.
struct QuantizedRows {
  const int8_t* q = nullptr;
  int64_t stride = 0;  // a multiple of 64; columns past the row's length are 0
  const float* scale = nullptr;
};

class Pass {
 public:
  Pass(const ModelWeights& model, WorkerPool& workers, const kernels::Ops& kernel_ops)
      : weights(model), config(model.config), pool(workers), ops(kernel_ops) {}

  void Resize(int64_t n);  // buffers for n rows
  // Makes this the rows first .. first + n of `whole`, for a thread that takes them through a layer alone. X,
  // H and what NormAndQuantizeAll gives lie in `whole`, which is resized before and not used meanwhile.
  void View(Pass& whole, int64_t first, int64_t n);

  // Items per range so that a range is worth handing to another thread. `cost` of one item is in int8
  // multiply-adds; a float operation counts kFloatCost of them.
  static constexpr int64_t kFloatCost = 8;
  static int64_t Grain(int64_t cost);
  // fn(row) for each batch row, on any thread.
  void ForRows(int64_t cost, absl::FunctionRef<void(int64_t)> fn);

  // q, scale of n floats per row at x + row * x_stride. Overwrites the result of the last call.
  QuantizedRows Quantize(const float* x, int64_t x_stride, int64_t n);
  // h = rms_norm(x, gain), then its quantisation. `change`: which of the layer's changes the input meets.
  QuantizedRows NormAndQuantize(const float* gain, LayerId layer, float LayerChange::*change);
  // The same, in a place of its own for each row of the pass that this is a view of.
  QuantizedRows NormAndQuantizeAll(const float* gain, LayerId layer, float LayerChange::*change);
  // All rows through up to four matrices of equal input width. Overwrites the result of the last call.
  Products Multiply(std::initializer_list<const TwoBitLinear*> linears, const QuantizedRows& x);
  // x += linear(in), whose output is d wide.
  void AddLinear(const TwoBitLinear& linear, const QuantizedRows& in);

  float* X(int64_t row) { return x_rows_ + row * width_; }  // residual stream [d]
  float* H(int64_t row) { return h_rows_ + row * width_; }  // the last norm's output [d]

  const ModelWeights& weights;
  const ModelConfig& config;
  WorkerPool& pool;
  const kernels::Ops& ops;
  int64_t rows = 0;
  std::vector<Segment> segments;

 private:
  QuantizedRows NormAndQuantizeTo(const float* gain, LayerId layer, float LayerChange::*change, int8_t* q,
                                  float* scale);

  int64_t width_ = 0;  // d padded to 64
  float *x_rows_ = nullptr, *h_rows_ = nullptr;
  int8_t* all_q_ = nullptr;  // of a view
  float* all_scale_ = nullptr;
  Scratch<float> x_, h_, y_, scale_;
  Scratch<int8_t> q_;
  Scratch<int32_t> acc_;
};

}  // namespace omni
