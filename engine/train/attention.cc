#include "engine/train/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace omni::train {

using torch::Tensor;

Tensor Attention(const Tensor& z, const ModelConfig& c, int64_t batch, Carry& carry, size_t index) {
  const int64_t h = c.head_dim(), n = z.size(0), tokens = n / batch, group = c.heads / c.kv_heads;
  Tensor cos = torch::empty({tokens, h / 2}), sin = torch::empty({tokens, h / 2});
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < h / 2; ++i) {
      const double angle = static_cast<double>(carry.position + t) *
                           std::pow(c.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(h));
      cos.data_ptr<float>()[t * h / 2 + i] = static_cast<float>(std::cos(angle));
      sin.data_ptr<float>()[t * h / 2 + i] = static_cast<float>(std::sin(angle));
    }
  }
  const auto heads = [&](int64_t first, int64_t count) {  // [B, count, T, h]
    return z.narrow(1, first, count * h).view({batch, tokens, count, h}).permute({0, 2, 1, 3});
  };
  const auto rotate = [&](const Tensor& x) {
    const Tensor a = x.narrow(3, 0, h / 2), b = x.narrow(3, h / 2, h / 2);
    return torch::cat({a * cos - b * sin, a * sin + b * cos}, 3);
  };
  const auto round16 = [](const Tensor& x) {
    return x + (x.detach().to(torch::kHalf).to(torch::kFloat32) - x.detach());
  };
  const Tensor q = rotate(heads(0, c.heads));
  const Tensor k_new = round16(rotate(heads(c.d, c.kv_heads)));
  const Tensor v_new = round16(heads(c.d + c.kv_heads * h, c.kv_heads));
  Tensor &memory_k = carry.keys[index], &memory_v = carry.values[index];
  const int64_t memory = memory_k.size(2);
  const Tensor k = torch::cat({memory_k, k_new}, 2),
               v = torch::cat({memory_v, v_new}, 2);  // [B, H_kv, M + T, h]
  // Position memory + t may see memory + t - W + 1 .. memory + t, and only what the row really remembers.
  Tensor mask = torch::full({batch, 1, tokens, memory + tokens}, -std::numeric_limits<float>::infinity());
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t last = memory + t;
      const int64_t first = std::max(last - c.window + 1, memory - carry.valid[static_cast<size_t>(b)]);
      float* row = mask.data_ptr<float>() + (b * tokens + t) * (memory + tokens);
      std::fill(row + first, row + last + 1, 0.0f);
    }
  }
  const Tensor queries = q.reshape({batch * c.kv_heads, group * tokens, h});
  const Tensor scale_q = queries * (1.0 / std::sqrt(static_cast<double>(h)));
  const Tensor keys = k.reshape({batch * c.kv_heads, memory + tokens, h});
  const Tensor scores =
      torch::bmm(scale_q, keys.transpose(1, 2)).view({batch, c.heads, tokens, memory + tokens}) + mask;
  const Tensor weights =
      torch::softmax(scores, 3).view({batch * c.kv_heads, group * tokens, memory + tokens});
  const Tensor out = torch::bmm(weights, v.reshape({batch * c.kv_heads, memory + tokens, h}));
  if (memory > 0) {
    memory_k = k.detach().narrow(2, tokens, memory).clone();
    memory_v = v.detach().narrow(2, tokens, memory).clone();
  }
  return out.view({batch, c.heads, tokens, h}).permute({0, 2, 1, 3}).reshape({n, c.d});
}

}  // namespace omni::train
