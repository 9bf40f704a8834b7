// Routing on the torus, with its gradient.
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/decode/router.h"
#include "engine/train/autograd.h"
#include "engine/train/cpu_ops.h"
#include "engine/train/layers.h"

namespace omni::train {
namespace {

// frac(W h) in [0, 1).
void TorusPoints(const float* h, const float* w, int64_t rows, int64_t d, float* z) {
  const kernels::Ops& ops = kernels::ActiveOps();
  for (int64_t i = 0; i < rows; ++i) {
    const omni::TorusPoint point = omni::Route(ops, w, h + i * d, d);
    std::copy(point.begin(), point.end(), z + 3 * i);
  }
}

Lattice LatticeOf(const Tensor& positions, const RouterSettings& settings) {
  return {.positions = F(positions),
          .experts = positions.size(0),
          .bias = settings.bias.defined() ? F(settings.bias) : nullptr,
          .region = settings.region_of != nullptr ? settings.region_of->data() : nullptr};
}

// Experts, or regions.
int64_t Choices(const Lattice& lattice) {
  return lattice.region == nullptr
             ? lattice.experts
             : int64_t{*std::max_element(lattice.region, lattice.region + lattice.experts)} + 1;
}

float Wrap(float delta) { return delta - std::nearbyint(delta); }

struct RouteFn : Function<RouteFn> {
  static variable_list forward(AutogradContext* ctx, const Tensor& h, Param* w, const Tensor& positions,
                               const RouterSettings* settings, RouterResult* result) {
    const int64_t n = h.size(0), d = h.size(1), experts = positions.size(0), threads = at::get_num_threads();
    Tensor z = torch::empty({n, 3}), prob = torch::empty({n}), mean = torch::zeros({threads, experts});
    auto route = std::make_shared<std::vector<int32_t>>(static_cast<size_t>(n));
    const int64_t per = (n + threads - 1) / threads;
    at::parallel_for(0, threads, 1, [&](int64_t t0, int64_t t1) {
      for (int64_t t = t0; t < t1; ++t) {
        const int64_t b = std::min(n, t * per), e = std::min(n, b + per);
        TorusPoints(F(h) + b * d, F(w->w), e - b, d, F(z) + 3 * b);
        Ops().route(F(z) + 3 * b, LatticeOf(positions, *settings), e - b, settings->temperature,
                    route->data() + b, F(prob) + b, F(mean) + t * experts);
      }
    });
    // Balance (Switch): experts * sum_e share_e * mean probability_e; the share carries no gradient.
    Tensor share = torch::zeros({experts});
    for (int32_t e : *route) F(share)[e] += 1.0f / static_cast<float>(n);
    const Tensor probability = mean.sum(0) / static_cast<double>(n);
    const double factor = settings->balance * static_cast<double>(experts);
    result->balance = factor * (share * probability).sum().item<double>();
    // Smoothness: mean squared torus distance between consecutive tokens of a sequence.
    double smooth = 0;
    for (int64_t i = 1; i < n; ++i) {
      if (settings->tokens > 0 && i % settings->tokens == 0) continue;
      for (int axis = 0; axis < 3; ++axis) {
        const float delta = Wrap(F(z)[3 * i + axis] - F(z)[3 * i - 3 + axis]);
        smooth += delta * delta;
      }
    }
    result->smoothness = settings->smoothness * smooth / static_cast<double>(n);
    result->route = route;
    ctx->save_for_backward({h, z, positions, share * (factor / static_cast<double>(n)), settings->bias});
    ctx->saved_data["w"] = Address(w);
    ctx->saved_data["temperature"] = static_cast<double>(settings->temperature);
    ctx->saved_data["smoothness"] = static_cast<double>(settings->smoothness) / static_cast<double>(n);
    ctx->saved_data["tokens"] = settings->tokens;
    ctx->saved_data["region_of"] = Address(settings->region_of);
    return {prob, torch::zeros({settings->untaken ? n : 0, Choices(LatticeOf(positions, *settings))})};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &h = saved[0], &z = saved[1], &positions = saved[2], &dmean = saved[3];
    auto* w = Pointer<Param>(ctx, "w");
    const RouterSettings settings = {.bias = saved[4],
                                     .region_of = Pointer<const std::vector<int32_t>>(ctx, "region_of")};
    const Lattice lattice = LatticeOf(positions, settings);
    const int64_t n = h.size(0), tokens = ctx->saved_data["tokens"].toInt();
    const auto temperature = static_cast<float>(ctx->saved_data["temperature"].toDouble());
    const auto smooth = static_cast<float>(2.0 * ctx->saved_data["smoothness"].toDouble());
    const Tensor dprob = grads[0].contiguous();
    const Tensor duntaken = grads[1].defined() && grads[1].size(0) > 0 ? grads[1].contiguous() : Tensor();
    Tensor dz = torch::empty({n, 3});
    at::parallel_for(0, n, 512, [&](int64_t b, int64_t e) {
      // The nearest expert is found again rather than kept: route_grad only needs the index.
      std::vector<int32_t> route(static_cast<size_t>(e - b));
      std::vector<float> prob(static_cast<size_t>(e - b)), mean(static_cast<size_t>(lattice.experts));
      Ops().route(F(z) + 3 * b, lattice, e - b, temperature, route.data(), prob.data(), mean.data());
      if (!duntaken.defined()) {
        Ops().route_grad(F(z) + 3 * b, lattice, e - b, temperature, route.data(), F(dprob) + b, F(dmean),
                         F(dz) + 3 * b);
        return;
      }
      for (int64_t i = b; i < e; ++i) {  // each row has a gradient of its own for every expert
        for (int64_t x = 0; x < lattice.experts; ++x) {
          const int64_t choice = lattice.region != nullptr ? lattice.region[x] : x;
          mean[static_cast<size_t>(x)] = F(dmean)[x] + F(duntaken)[i * duntaken.size(1) + choice];
        }
        Ops().route_grad(F(z) + 3 * i, lattice, 1, temperature, route.data() + (i - b), F(dprob) + i,
                         mean.data(), F(dz) + 3 * i);
      }
    });
    if (smooth > 0) {
      for (int64_t i = 1; i < n; ++i) {
        if (tokens > 0 && i % tokens == 0) continue;
        for (int axis = 0; axis < 3; ++axis) {
          const float delta = smooth * Wrap(F(z)[3 * i + axis] - F(z)[3 * i - 3 + axis]);
          F(dz)[3 * i + axis] += delta;
          F(dz)[3 * i - 3 + axis] -= delta;
        }
      }
    }
    w->grad += torch::mm(dz.t(), h).view_as(w->grad);
    return {torch::mm(dz, w->w.view({3, -1})), Variable(), Variable(), Variable(), Variable()};
  }
};

struct UntakenFn : Function<UntakenFn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& y, const Tensor& untaken,
                        const Tensor& mean_outputs, const Tensor& taken) {
    (void)untaken;
    ctx->save_for_backward({mean_outputs.clone(), taken});  // the means move on before the gradient is taken
    return y.clone();
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor change = torch::mm(grads[0], saved[0].t());
    return {grads[0], change.scatter_(1, saved[1].unsqueeze(1), 0.0), Variable(), Variable()};
  }
};

Tensor Index(const std::vector<int32_t>& taken) {
  return torch::tensor(std::vector<int64_t>(taken.begin(), taken.end()));
}

}  // namespace

Tensor WithUntaken(const Tensor& y, const Tensor& untaken, const Tensor& mean_outputs,
                   const std::vector<int32_t>& taken) {
  return UntakenFn::apply(y, untaken, mean_outputs, Index(taken));
}

void UpdateMeanOutputs(const Tensor& y, const std::vector<int32_t>& taken, Tensor& mean_outputs) {
  constexpr double kRate = 0.05;
  torch::NoGradGuard no_grad;
  const Tensor index = Index(taken);
  const Tensor count =
      torch::zeros({mean_outputs.size(0), 1}).index_add_(0, index, torch::ones({y.size(0), 1}));
  const Tensor mean = torch::zeros_like(mean_outputs).index_add_(0, index, y.detach()) / count.clamp_min(1);
  mean_outputs.add_((mean - mean_outputs) * (count > 0) * kRate);
}

RouterResult Route(const Tensor& h, Param& w, const Tensor& positions, const RouterSettings& settings) {
  RouterResult result;
  const variable_list outputs = RouteFn::apply(h, &w, positions, &settings, &result);
  result.prob = outputs[0];
  if (settings.untaken) result.untaken = outputs[1];
  return result;
}

}  // namespace omni::train
