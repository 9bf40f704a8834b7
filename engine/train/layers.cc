#include "engine/train/layers.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/train/autograd.h"
#include "engine/train/cpu_ops.h"

namespace omni::train {
namespace {

// Rows per thread task: a multiple of the micro kernel's 14 rows.
constexpr int64_t kGrain = 14 * 16;

// grad[M, N] += a^T b, the rows of the result split over the threads.
void AccumulateOuter(const bf16* a, int64_t lda, int64_t m, const bf16* b, int64_t ldb, int64_t n,
                     int64_t tokens, float* grad) {
  const int64_t threads = at::get_num_threads();
  const int64_t per = ((m + threads - 1) / threads + 13) / 14 * 14;
  at::parallel_for(0, (m + per - 1) / per, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = part * per, count = std::min(per, m - first);
      std::vector<uint32_t> scratch(static_cast<size_t>(GemmTnScratch(count, n)));
      Ops().gemm_tn(a + first, lda, count, b, ldb, n, tokens, true, grad + first * n, n, scratch.data());
    }
  });
}

struct RmsNormFn : Function<RmsNormFn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, Param* g) {
    const int64_t rows = x.size(0), d = x.size(1);
    Tensor h = torch::empty_like(x), inv = torch::empty({rows});
    at::parallel_for(0, rows, 256, [&](int64_t b, int64_t e) {
      Ops().rms_norm(F(x) + b * d, F(g->w), e - b, d, F(h) + b * d, F(inv) + b);
    });
    ctx->save_for_backward({x, inv});
    ctx->saved_data["g"] = Address(g);
    return h;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    auto* g = Pointer<Param>(ctx, "g");
    const Tensor& x = saved[0];
    const Tensor dh = grads[0].contiguous();
    const int64_t rows = x.size(0), d = x.size(1), threads = at::get_num_threads();
    Tensor dx = torch::empty_like(x), dg = torch::zeros({threads, d});
    const int64_t per = (rows + threads - 1) / threads;
    at::parallel_for(0, threads, 1, [&](int64_t t0, int64_t t1) {
      for (int64_t t = t0; t < t1; ++t) {
        const int64_t b = std::min(rows, t * per), e = std::min(rows, b + per);
        Ops().rms_norm_grad(F(x) + b * d, F(g->w), F(saved[1]) + b, F(dh) + b * d, e - b, d, F(dx) + b * d,
                            F(dg) + t * d);
      }
    });
    g->grad += dg.sum(0);
    return {dx, Variable()};
  }
};

struct QuantLinearFn : Function<QuantLinearFn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, Param* w) {
    const int64_t rows = x.size(0), in = x.size(1), out = w->rows();
    Tensor q = Bf16(rows, in), s = torch::empty({rows}), y = torch::empty({rows, out});
    QuantizeRows(x, q, s);
    at::parallel_for(0, rows, kGrain, [&](int64_t b, int64_t e) {
      Ops().gemm_codes(B(q) + b * in, in, e - b, w->group_packed_t(0), out, in, F(s) + b, w->group_scale(0),
                       false, F(y) + b * out, out);
    });
    ctx->save_for_backward({q, s});
    ctx->saved_data["w"] = Address(w);
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    auto* w = Pointer<Param>(ctx, "w");
    const Tensor dy = grads[0].contiguous();
    const int64_t rows = dy.size(0), out = w->rows(), in = w->cols(), ld = (out + 1) / 2 * 2;
    Tensor dx = torch::empty({rows, in}), scaled = Bf16(rows, ld), for_weight = Bf16(rows, out);
    at::parallel_for(0, rows, kGrain, [&](int64_t b, int64_t e) {
      if (ld != out) std::fill(B(scaled) + b * ld, B(scaled) + e * ld, bf16{0});
      Ops().to_bf16(F(dy) + b * out, e - b, out, out, nullptr, w->group_scale(0), B(scaled) + b * ld, ld);
      Ops().to_bf16(F(dy) + b * out, e - b, out, out, F(saved[1]) + b, nullptr, B(for_weight) + b * out, out);
      Ops().gemm(B(scaled) + b * ld, ld, e - b, w->group_packed(0), in, out, nullptr, nullptr, false,
                 F(dx) + b * in, in);
    });
    AccumulateOuter(B(for_weight), out, out, B(saved[0]), in, in, rows, w->group_grad(0));
    return {dx, Variable()};
  }
};

struct PdrFn : Function<PdrFn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& z, Param* bias, int64_t batch, int64_t d,
                        int64_t r, double key_factor, double floor, Tensor* state) {
    const int64_t n = z.size(0), tokens = n / batch, width = z.size(1), chunks = (tokens + 15) / 16;
    Tensor k = z.narrow(1, 2 * d, r) * key_factor, q = z.narrow(1, 2 * d + r, r).contiguous();
    Tensor out = torch::empty({n, d}), boundary = torch::empty({batch, chunks, r, d});
    at::parallel_for(0, batch, 1, [&](int64_t b0, int64_t b1) {
      for (int64_t b = b0; b < b1; ++b) {
        const float* row = F(z) + b * tokens * width;
        Ops().pdr(row, F(bias->w), row + d, width, F(k) + b * tokens * r, F(q) + b * tokens * r, r, tokens, d,
                  r, static_cast<float>(floor), 0, d, F(*state) + b * r * d, F(boundary) + b * chunks * r * d,
                  F(out) + b * tokens * d, d);
      }
    });
    ctx->save_for_backward({z, k, q, boundary});
    ctx->saved_data["bias"] = Address(bias);
    ctx->saved_data["batch"] = batch;
    ctx->saved_data["factor"] = key_factor;
    ctx->saved_data["floor"] = floor;
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &z = saved[0], &k = saved[1], &q = saved[2], &boundary = saved[3];
    auto* bias = Pointer<Param>(ctx, "bias");
    const int64_t batch = ctx->saved_data["batch"].toInt(), n = z.size(0), tokens = n / batch,
                  width = z.size(1);
    const int64_t d = boundary.size(3), r = boundary.size(2), chunks = boundary.size(1);
    const auto floor = static_cast<float>(ctx->saved_data["floor"].toDouble());
    const Tensor dout = grads[0].contiguous();
    Tensor dz = torch::empty_like(z), dk = torch::zeros_like(k), dq = torch::zeros_like(q),
           db = torch::zeros({batch, d});
    at::parallel_for(0, batch, 1, [&](int64_t b0, int64_t b1) {
      for (int64_t b = b0; b < b1; ++b) {
        const float* row = F(z) + b * tokens * width;
        float* drow = F(dz) + b * tokens * width;
        Ops().pdr_grad(row, F(bias->w), row + d, width, F(k) + b * tokens * r, F(q) + b * tokens * r, r,
                       tokens, d, r, floor, 0, d, F(boundary) + b * chunks * r * d, F(dout) + b * tokens * d,
                       d, drow, drow + d, width, F(dk) + b * tokens * r, F(dq) + b * tokens * r,
                       F(db) + b * d);
      }
    });
    bias->grad += db.sum(0);
    dz.narrow(1, 2 * d, r).copy_(dk.mul_(ctx->saved_data["factor"].toDouble()));
    dz.narrow(1, 2 * d + r, r).copy_(dq);
    return {dz, Variable(), Variable(), Variable(), Variable(), Variable(), Variable(), Variable()};
  }
};

struct SwigluFn : Function<SwigluFn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& z) {
    const int64_t rows = z.size(0), f = z.size(1) / 2;
    Tensor a = torch::empty({rows, f});
    at::parallel_for(0, rows, 64, [&](int64_t b, int64_t e) {
      const float* row = F(z) + b * 2 * f;
      Ops().swiglu(row, row + f, 2 * f, e - b, f, F(a) + b * f, f);
    });
    ctx->save_for_backward({z});
    return a;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const Tensor z = ctx->get_saved_variables()[0];
    const Tensor da = grads[0].contiguous();
    const int64_t rows = z.size(0), f = z.size(1) / 2;
    Tensor dz = torch::empty_like(z);
    at::parallel_for(0, rows, 64, [&](int64_t b, int64_t e) {
      const float* row = F(z) + b * 2 * f;
      float* drow = F(dz) + b * 2 * f;
      Ops().swiglu_grad(row, row + f, 2 * f, e - b, f, F(da) + b * f, f, drow, drow + f, 2 * f);
    });
    return {dz};
  }
};

struct DropoutAddFn : Function<DropoutAddFn> {
  static void Apply(const Tensor& o, uint64_t key, float rate, const Tensor& x, bool add) {
    at::parallel_for(0, o.numel(), 65536, [&](int64_t b, int64_t e) {
      Ops().dropout(F(o) + b, e - b, key, static_cast<uint64_t>(b), rate, F(x) + b, add);
    });
  }
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& o, int64_t key, double rate) {
    ctx->saved_data["key"] = key;
    ctx->saved_data["rate"] = rate;
    if (rate == 0) return x + o;
    Tensor y = x.clone();
    Apply(o, static_cast<uint64_t>(key), static_cast<float>(rate), y, true);
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const double rate = ctx->saved_data["rate"].toDouble();
    if (rate == 0) return {grads[0], grads[0], Variable(), Variable()};
    const Tensor dy = grads[0].contiguous();
    Tensor grad_o = torch::empty_like(dy);
    Apply(dy, static_cast<uint64_t>(ctx->saved_data["key"].toInt()), static_cast<float>(rate), grad_o, false);
    return {dy, grad_o, Variable(), Variable()};
  }
};

// Cross entropy of y E^T by blocks of rows, so that all logits never stand in memory at once. The gradient is
// computed in the forward pass, where the logits are.
// What soft targets add to a row's loss, from its logits: sum of w_k (z_target - z_k), times the share.
double SoftLoss(const SoftTargets& soft, int64_t row, int32_t target, const float* logits) {
  const int64_t top = soft.ids.size(1);
  double sum = 0;
  for (int64_t k = row * top; k < (row + 1) * top; ++k)
    sum +=
        static_cast<double>(F(soft.weights)[k]) *
        (static_cast<double>(logits[target]) - static_cast<double>(logits[soft.ids.data_ptr<int32_t>()[k]]));
  return static_cast<double>(soft.share) * sum;
}

void AddSoftGradient(const SoftTargets& soft, int64_t row, int32_t target, float scale, float* gradient) {
  const int64_t top = soft.ids.size(1);
  for (int64_t k = row * top; k < (row + 1) * top; ++k) {
    const float change = scale * soft.share * F(soft.weights)[k];
    gradient[target] += change;
    gradient[soft.ids.data_ptr<int32_t>()[k]] -= change;
  }
}

struct HeadLossFn : Function<HeadLossFn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& y, Param* embedding, const Tensor& targets,
                        const SoftTargets* soft) {
    const int64_t rows = y.size(0), d = y.size(1), vocab = embedding->rows(), ld = (vocab + 1) / 2 * 2;
    const auto* target = targets.data_ptr<int32_t>();
    const int64_t counted = std::count_if(target, target + rows, [](int32_t t) { return t >= 0; });
    const float grad_scale = 1.0f / static_cast<float>(std::max<int64_t>(1, counted));
    Tensor q = Bf16(rows, d), s = torch::empty({rows}), dy = torch::empty({rows, d});
    QuantizeRows(y, q, s);
    constexpr int64_t kBlock = 14 * 32;
    Tensor logits = torch::empty({std::min(kBlock, rows), vocab});
    Tensor grad_y = Bf16(std::min(kBlock, rows), ld).zero_(), grad_w = Bf16(std::min(kBlock, rows), vocab);
    double loss = 0;
    const bool training = y.requires_grad();
    for (int64_t first = 0; first < rows; first += kBlock) {
      const int64_t count = std::min(kBlock, rows - first);
      std::vector<double> part(static_cast<size_t>(count), 0.0);
      at::parallel_for(0, count, 14, [&](int64_t b, int64_t e) {
        const int64_t row = first + b;
        float* block = F(logits) + b * vocab;
        Ops().gemm_codes(B(q) + row * d, d, e - b, embedding->group_packed_t(0), vocab, d, F(s) + row,
                         embedding->group_scale(0), false, block, vocab);
        for (int64_t i = b; i < e; ++i) {
          const int32_t next = target[first + i];
          const bool softened = soft->ids.defined() && next >= 0;
          double& of_row = part[static_cast<size_t>(i)];
          if (softened) of_row = SoftLoss(*soft, first + i, next, F(logits) + i * vocab);
          of_row += Ops().cross_entropy(F(logits) + i * vocab, target + first + i, 1, vocab, grad_scale);
          if (softened && training)
            AddSoftGradient(*soft, first + i, next, grad_scale, F(logits) + i * vocab);
        }
        if (!training) return;
        Ops().to_bf16(block, e - b, vocab, vocab, nullptr, embedding->group_scale(0), B(grad_y) + b * ld, ld);
        Ops().to_bf16(block, e - b, vocab, vocab, F(s) + row, nullptr, B(grad_w) + b * vocab, vocab);
        Ops().gemm(B(grad_y) + b * ld, ld, e - b, embedding->group_packed(0), d, vocab, nullptr, nullptr,
                   false, F(dy) + row * d, d);
      });
      loss += std::accumulate(part.begin(), part.end(), 0.0);
      if (training)
        AccumulateOuter(B(grad_w), vocab, vocab, B(q) + first * d, d, d, count, embedding->group_grad(0));
    }
    ctx->save_for_backward({dy});
    return torch::tensor(loss * grad_scale, torch::kFloat64);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {ctx->get_saved_variables()[0] * grads[0].to(torch::kFloat32), Variable(), Variable(), Variable()};
  }
};

}  // namespace

Tensor RmsNorm(const Tensor& x, Param& g) { return RmsNormFn::apply(x, &g); }
Tensor QuantLinear(const Tensor& x, Param& w) { return QuantLinearFn::apply(x, &w); }
Tensor Pdr(const Tensor& z, Param& bias, int64_t batch, int64_t d, int64_t r, bool key_scale, float floor,
           Tensor& state) {
  const double factor = key_scale ? 1.0 / std::sqrt(static_cast<double>(r)) : 1.0;
  return PdrFn::apply(z, &bias, batch, d, r, factor, static_cast<double>(floor), &state);
}
Tensor Swiglu(const Tensor& z) { return SwigluFn::apply(z); }
Tensor DropoutAdd(const Tensor& x, const Tensor& o, uint64_t key, float rate) {
  return DropoutAddFn::apply(x, o, static_cast<int64_t>(key), static_cast<double>(rate));
}
Tensor HeadLoss(const Tensor& y, Param& embedding, const Tensor& targets, const SoftTargets& soft) {
  return HeadLossFn::apply(y, &embedding, targets, &soft);
}

}  // namespace omni::train
