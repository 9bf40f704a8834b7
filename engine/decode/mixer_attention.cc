#include "engine/decode/mixer_attention.h"

#include <algorithm>
#include <cmath>

namespace omni {
namespace {

enum { kQ = 0, kK = 1, kV = 2 };  // order of the products

}  // namespace

AttentionMixer::AttentionMixer(Pass& pass)
    : pass_(pass),
      angles_(pass.config.rope_theta, pass.config.head_dim()),
      width_(PadTo(pass.config.d, 16)),
      kv_width_(PadTo(pass.config.kv_heads * pass.config.head_dim(), 16)),
      scale_(1.0f / std::sqrt(static_cast<float>(pass.config.head_dim()))) {}

void AttentionMixer::Begin() {
  const int64_t half = angles_.half();
  float* cos = cos_.Reserve(pass_.rows * half);
  float* sin = sin_.Reserve(pass_.rows * half);
  for (const Segment& segment : pass_.segments) {
    for (int64_t i = 0; i < segment.count; ++i) {
      const int64_t at = (segment.first_row + i) * half;
      angles_.At(segment.position + i, cos + at, sin + at);
    }
  }
}

void AttentionMixer::Run(const LayerWeights& layer, LayerId id) {
  const ModelConfig& config = pass_.config;
  const kernels::Ops& ops = pass_.ops;
  const int64_t rows = pass_.rows, h = config.head_dim(), half = h / 2;
  const QuantizedRows in = pass_.NormAndQuantize(layer.norm1, id, &LayerChange::mixer_gain);
  const Products products = pass_.Multiply({&layer.wq, &layer.wk, &layer.wv}, in);

  float* q = q_.Reserve(rows * width_);
  float* k = k_.Reserve(rows * kv_width_);
  float* v = v_.Reserve(rows * kv_width_);
  pass_.ForRows(4 * config.d * Pass::kFloatCost, [&](int64_t row) {
    const float* cos = cos_.data() + row * half;
    const float* sin = sin_.data() + row * half;
    ops.scale_rows(products.Row(kQ, row), layer.wq.scale, in.scale[row], config.d, q + row * width_);
    ops.scale_rows(products.Row(kK, row), layer.wk.scale, in.scale[row], config.kv_heads * h,
                   k + row * kv_width_);
    ops.scale_rows(products.Row(kV, row), layer.wv.scale, in.scale[row], config.kv_heads * h,
                   v + row * kv_width_);
    for (int64_t head = 0; head < config.heads; ++head) ops.rope(q + row * width_ + head * h, cos, sin, h);
    for (int64_t head = 0; head < config.kv_heads; ++head)
      ops.rope(k + row * kv_width_ + head * h, cos, sin, h);
  });

  float* out = out_.Reserve(rows * width_);
  states_.clear();
  for (size_t begin = 0; begin < pass_.segments.size(); begin = states_.back().end)
    states_.push_back({begin, EndOfState(pass_.segments, begin)});
  const int64_t items = static_cast<int64_t>(states_.size()) * config.kv_heads;
  const int64_t scores_stride = PadTo(config.window + 16, 16);
  float* scores = scores_.Reserve(items * scores_stride);
  uint16_t* kept = kept_.Reserve(items * 2 * h);
  int64_t positions = 0;  // attended, over all rows
  for (const Segment& segment : pass_.segments) {
    positions += segment.count * std::min(segment.position + segment.count, config.window);
  }
  const int64_t cost = 2 * positions * config.d * Pass::kFloatCost / items;
  pass_.pool.Run(items, Pass::Grain(cost), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      RunHead(states_[static_cast<size_t>(i / config.kv_heads)], id, i % config.kv_heads,
              scores + i * scores_stride, kept + i * 2 * h);
    }
  });
  pass_.AddLinear(layer.wo, pass_.Quantize(out, width_, config.d));
}

void AttentionMixer::RunHead(const Users& users, LayerId id, int64_t kv_head, float* scores, uint16_t* kept) {
  const Segment& last = pass_.segments[users.end - 1];
  const int64_t h = pass_.config.head_dim(), window = pass_.config.window;
  const int64_t slot = (kv_head * window + last.position % window) * h;
  uint16_t* const key = last.state->keys(id) + slot;
  uint16_t* const value = last.state->values(id) + slot;
  // Rows aside write where the session's own row does. If that is not to come, what is there comes back.
  if (last.aside) {
    std::copy_n(key, h, kept);
    std::copy_n(value, h, kept + h);
  }
  for (size_t i = users.begin; i < users.end; ++i) RunSegment(pass_.segments[i], id, kv_head, scores);
  if (last.aside) {
    std::copy_n(kept, h, key);
    std::copy_n(kept + h, h, value);
  }
}

void AttentionMixer::RunSegment(const Segment& segment, LayerId id, int64_t kv_head, float* scores) {
  const ModelConfig& config = pass_.config;
  const kernels::Ops& ops = pass_.ops;
  const int64_t h = config.head_dim(), window = config.window, group = config.heads / config.kv_heads;
  uint16_t* keys = segment.state->keys(id) + kv_head * window * h;
  uint16_t* values = segment.state->values(id) + kv_head * window * h;
  for (int64_t i = 0; i < segment.count; ++i) {
    const int64_t row = segment.first_row + i, position = segment.position + i, slot = position % window;
    ops.to_fp16(k_.data() + row * kv_width_ + kv_head * h, h, keys + slot * h);
    ops.to_fp16(v_.data() + row * kv_width_ + kv_head * h, h, values + slot * h);
    const int64_t len = std::min(position + 1, window);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const int64_t at = row * width_ + head * h;
      ops.attend(q_.data() + at, keys, values, h, len, scale_, scores, out_.data() + at);
    }
  }
}

}  // namespace omni
