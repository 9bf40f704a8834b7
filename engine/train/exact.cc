#include "engine/train/exact.h"

#include <cmath>
#include <vector>

#include "engine/decode/rope.h"
#include "engine/decode/router.h"
#include "engine/train/autograd.h"
#include "engine/train/cpu_ops.h"
#include "kernels/op.h"

namespace omni::train::exact {
namespace {

const kernels::Ops& Law() { return kernels::ActiveOps(); }

// Exact integer sums of one bf16-coded row with a packed matrix.
std::vector<int32_t> Sums(const bf16* q, const uint32_t* packed, int64_t out, int64_t in) {
  std::vector<float> sums(static_cast<size_t>(out));
  Ops().gemm_codes(q, in, 1, packed, out, in, nullptr, nullptr, false, sums.data(), out);
  return {sums.begin(), sums.end()};
}

}  // namespace

Tensor RmsNorm(const Tensor& x, const Param& g) {
  Tensor h = torch::empty_like(x);
  for (int64_t i = 0; i < x.size(0); ++i)
    Law().rms_norm(F(x) + i * x.size(1), F(g.w), x.size(1), F(h) + i * x.size(1));
  return h;
}

Tensor Pdr(const Tensor& z, const Param& bias, const ModelConfig& config, int64_t batch, Tensor& state) {
  const int64_t d = config.d, r = config.r, n = z.size(0), tokens = n / batch;
  const auto floor = static_cast<float>(std::exp(static_cast<double>(config.decay_floor)));
  const float root = std::sqrt(static_cast<float>(r));
  Tensor out = torch::empty({n, d});
  std::vector<float> gamma(static_cast<size_t>(d)), k(static_cast<size_t>(r));
  for (int64_t b = 0; b < batch; ++b) {
    Tensor rows = state[b].t().contiguous();  // S, [d, r]
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = F(z) + (b * tokens + t) * z.size(1);
      Law().decay(row, F(bias.w), floor, d, gamma.data());
      for (int64_t j = 0; j < r; ++j)
        k[static_cast<size_t>(j)] = config.key_scale ? row[2 * d + j] / root : row[2 * d + j];
      Law().pdr_step(F(rows), gamma.data(), row + d, k.data(), row + 2 * d + r, d, r,
                     F(out) + (b * tokens + t) * d);
    }
    state[b].copy_(rows.t());
  }
  return out;
}

Tensor Attention(const Tensor& z, const ModelConfig& config, int64_t batch, Carry& carry, size_t index) {
  const int64_t h = config.head_dim(), n = z.size(0), tokens = n / batch, window = config.window,
                d = config.d;
  const int64_t group = config.heads / config.kv_heads, memory = carry.keys[index].size(2);
  const RopeAngles angles(config.rope_theta, h);
  const float scale = 1.0f / std::sqrt(static_cast<float>(h));
  std::vector<float> cos(static_cast<size_t>(h / 2)), sin(static_cast<size_t>(h / 2)),
      scratch(static_cast<size_t>(window + 16));
  Tensor out = torch::empty({n, d});
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t head = 0; head < config.kv_heads; ++head) {
      // Ring buffers in slot order, as the law's sums run over them, filled from what is remembered.
      std::vector<uint16_t> keys(static_cast<size_t>(window * h)), values(static_cast<size_t>(window * h));
      const auto put = [&](int64_t position, const float* k, const float* v) {
        Law().to_fp16(k, h, keys.data() + position % window * h);
        Law().to_fp16(v, h, values.data() + position % window * h);
      };
      Tensor &memory_k = carry.keys[index], &memory_v = carry.values[index];
      for (int64_t m = memory - carry.valid[static_cast<size_t>(b)]; m < memory; ++m) {
        const int64_t at = ((b * config.kv_heads + head) * memory + m) * h;
        put(carry.position - memory + m, F(memory_k) + at, F(memory_v) + at);
      }
      Tensor new_k = torch::empty({tokens, h}), new_v = torch::empty({tokens, h});
      for (int64_t t = 0; t < tokens; ++t) {
        const float* row = F(z) + (b * tokens + t) * z.size(1);
        const int64_t position = carry.position + t;
        angles.At(position, cos.data(), sin.data());
        std::copy_n(row + d + head * h, h, F(new_k) + t * h);
        std::copy_n(row + d + (config.kv_heads + head) * h, h, F(new_v) + t * h);
        Law().rope(F(new_k) + t * h, cos.data(), sin.data(), h);
        put(position, F(new_k) + t * h, F(new_v) + t * h);
        const int64_t len = std::min(position + 1, window);
        for (int64_t g = head * group; g < (head + 1) * group; ++g) {
          std::vector<float> q(row + g * h, row + (g + 1) * h);
          Law().rope(q.data(), cos.data(), sin.data(), h);
          Law().attend(q.data(), keys.data(), values.data(), h, len, scale, scratch.data(),
                       F(out) + (b * tokens + t) * d + g * h);
        }
      }
      // What later segments remember: the last `memory` of old and new.
      for (auto [kept, fresh] : {std::pair{&memory_k, &new_k}, std::pair{&memory_v, &new_v}}) {
        const Tensor row = (*kept)[b][head];
        row.copy_(torch::cat({row, *fresh}).narrow(0, tokens, memory).clone());
      }
    }
  }
  return out;
}

Tensor Swiglu(const Tensor& z) {
  const int64_t f = z.size(1) / 2;
  Tensor a = torch::empty({z.size(0), f});
  for (int64_t i = 0; i < z.size(0); ++i) {
    const float* row = F(z) + i * 2 * f;
    for (int64_t j = 0; j < f; ++j) F(a)[i * f + j] = row[f + j] * kernels::Silu(row[j]);
  }
  return a;
}

std::vector<int32_t> Nearest(const Tensor& rows, const Param& route, const Tensor& positions,
                             const Tensor& bias) {
  std::vector<int32_t> nearest(static_cast<size_t>(rows.size(0)));
  for (size_t i = 0; i < nearest.size(); ++i) {
    const TorusPoint z =
        omni::Route(Law(), F(route.w), F(rows) + static_cast<int64_t>(i) * rows.size(1), rows.size(1));
    nearest[i] = NearestExpert(z, F(positions), bias.defined() ? F(bias) : nullptr, positions.size(0)).value;
  }
  return nearest;
}

Tensor Experts(const Tensor& h, const ExpertParams& params, const std::vector<int32_t>& route) {
  const int64_t n = h.size(0), d = h.size(1), f = params.neurons();
  Tensor y = torch::zeros({n, d});
  std::vector<bf16> q(static_cast<size_t>(d)), qa(static_cast<size_t>(f));
  std::vector<float> a(static_cast<size_t>(f));
  for (int64_t i = 0; i < n; ++i) {
    const int32_t expert = route[static_cast<size_t>(i)];
    float s, sa;
    Ops().quantize(F(h) + i * d, 1, d, q.data(), &s);
    struct Part {
      const Param *gate_up, *down;
      int64_t copy, offset;
    };
    std::vector<Part> parts;
    int64_t offset = 0;
    for (const ExpertGroup& group : params.groups) {
      parts.push_back({group.gate_up, group.down, group.CopyOf(expert), offset});
      offset += group.neurons();
    }
    for (const Part& p : parts) {
      const int64_t neurons = p.down->rows();
      const std::vector<int32_t> sums = Sums(q.data(), p.gate_up->group_packed_t(p.copy), 2 * neurons, d);
      std::vector<float> up_scale(static_cast<size_t>(neurons));
      for (int64_t j = 0; j < neurons; ++j) {
        up_scale[static_cast<size_t>(j)] =
            p.gate_up->group_scale(p.copy)[neurons + j] * p.down->group_scale(p.copy)[j];
      }
      Law().swiglu(sums.data(), sums.data() + neurons, 1, p.gate_up->group_scale(p.copy), up_scale.data(), s,
                   neurons, a.data() + p.offset);
    }
    Ops().quantize(a.data(), 1, f, qa.data(), &sa);
    std::vector<int32_t> total(static_cast<size_t>(d), 0);
    for (const Part& p : parts) {
      const std::vector<int32_t> sums =
          Sums(qa.data() + p.offset, p.down->group_packed(p.copy), d, p.down->rows());
      for (int64_t j = 0; j < d; ++j) total[static_cast<size_t>(j)] += sums[static_cast<size_t>(j)];
    }
    for (int64_t j = 0; j < d; ++j) F(y)[i * d + j] = static_cast<float>(total[static_cast<size_t>(j)]) * sa;
  }
  return y;
}

}  // namespace omni::train::exact
