// The experts' FFN: tokens sorted by region and expert, neurons that several experts have in common as one
// product over all tokens of those that lie side by side.
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <numeric>

#include "engine/train/autograd.h"
#include "engine/train/cpu_ops.h"
#include "engine/train/layers.h"

namespace omni::train {
namespace {

// Where each token goes: order[i] = token computed in place i. spans[g] are the places whose tokens have the
// same copy of group g, one after another.
struct Plan : torch::CustomClassHolder {  // so that a gradient function can keep it
  std::vector<int32_t> order;
  struct Span {
    int64_t copy, first, count;
  };
  std::vector<std::vector<Span>> spans;
};

// Tokens sorted by region, then by expert.
c10::intrusive_ptr<Plan> MakePlan(const ExpertParams& params, const std::vector<int32_t>& route) {
  auto plan = c10::make_intrusive<Plan>();
  const auto n = static_cast<int64_t>(route.size());
  plan->order.resize(route.size());
  std::iota(plan->order.begin(), plan->order.end(), 0);
  const bool parted = std::any_of(params.groups.begin(), params.groups.end(),
                                  [](const ExpertGroup& g) { return g.down->live_groups() > 1; });
  if (!parted) {
    plan->spans.assign(params.groups.size(), {{0, 0, n}});
    return plan;
  }
  const auto experts = static_cast<int64_t>(params.region_of.size());
  std::vector<int64_t> count(static_cast<size_t>(experts), 0);
  for (int32_t e : route) ++count[static_cast<size_t>(e)];
  std::vector<int32_t> by_region(static_cast<size_t>(experts));
  std::iota(by_region.begin(), by_region.end(), 0);
  std::stable_sort(by_region.begin(), by_region.end(),
                   [&](int32_t a, int32_t b) { return params.region_of[a] < params.region_of[b]; });
  std::vector<int64_t> next(static_cast<size_t>(experts));
  plan->spans.resize(params.groups.size());
  int64_t at = 0;
  for (int32_t e : by_region) {
    next[static_cast<size_t>(e)] = at;
    const int64_t c = count[static_cast<size_t>(e)];
    if (c == 0) continue;
    for (size_t g = 0; g < params.groups.size(); ++g) {
      std::vector<Plan::Span>& spans = plan->spans[g];
      const int64_t copy = params.groups[g].CopyOf(e);
      if (!spans.empty() && spans.back().copy == copy) {
        spans.back().count += c;
      } else {
        spans.push_back({copy, at, c});
      }
    }
    at += c;
  }
  for (int64_t i = 0; i < n; ++i)
    plan->order[static_cast<size_t>(next[static_cast<size_t>(route[static_cast<size_t>(i)])]++)] =
        static_cast<int32_t>(i);
  return plan;
}

// One product of a span of sorted tokens with one copy of a group, whose first neuron is `offset`.
struct Piece {
  Plan::Span span;
  size_t group;
  Param *gate_up, *down;
  int64_t offset, neurons;
};

std::vector<Piece> Pieces(const ExpertParams& params, const Plan& plan) {
  // A single span is cut for the threads; many are shared out whole, the largest first.
  std::vector<Piece> cut;
  constexpr int64_t kRows = 14 * 16;
  int64_t offset = 0;
  for (size_t g = 0; g < params.groups.size(); ++g) {
    const ExpertGroup& group = params.groups[g];
    for (const Plan::Span& span : plan.spans[g]) {
      for (int64_t first = 0; first < span.count; first += kRows) {
        cut.push_back({{span.copy, span.first + first, std::min(kRows, span.count - first)},
                       g,
                       group.gate_up,
                       group.down,
                       offset,
                       group.neurons()});
      }
    }
    offset += group.neurons();
  }
  return cut;
}

// The gradient of some rows of one copy of a parameter, from all the tokens that have it.
struct CopyGradient {
  std::vector<Plan::Span> spans;  // of one copy
  Param* param;
  bool of_down;
  int64_t offset, row, rows;
};

std::vector<CopyGradient> CopyGradients(const ExpertParams& params, const Plan& plan) {
  constexpr int64_t kRows = 14 * 8;
  std::vector<CopyGradient> tasks;
  int64_t offset = 0;
  for (size_t g = 0; g < params.groups.size(); ++g) {
    const ExpertGroup& group = params.groups[g];
    const int64_t neurons = group.neurons();
    std::map<int64_t, std::vector<Plan::Span>> by_copy;
    for (const Plan::Span& span : plan.spans[g]) by_copy[span.copy].push_back(span);
    for (const auto& [copy, spans] : by_copy) {
      for (int64_t r = 0; r < 2 * neurons; r += kRows)
        tasks.push_back({spans, group.gate_up, false, offset, r, std::min(kRows, 2 * neurons - r)});
      for (int64_t r = 0; r < neurons; r += kRows)
        tasks.push_back({spans, group.down, true, offset, r, std::min(kRows, neurons - r)});
    }
    offset += neurons;
  }
  return tasks;
}

template <typename Work>
void ForEach(size_t count, const Work& work) {
  std::atomic<size_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t b, int64_t e) {
    for (int64_t t = b; t < e; ++t) {
      for (size_t i = next++; i < count; i = next++) work(i);
    }
  });
}

struct ExpertsFn : Function<ExpertsFn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& h, const Tensor& prob, const ExpertParams* params,
                        const std::vector<int32_t>* route) {
    const CpuOps& ops = Ops();
    const int64_t n = h.size(0), d = h.size(1), f = params->neurons();
    const c10::intrusive_ptr<Plan> plan = MakePlan(*params, *route);
    const int32_t* order = plan->order.data();
    Tensor q = Bf16(n, d), s = torch::empty({n});
    at::parallel_for(0, n, 128, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) ops.quantize(F(h) + order[i] * d, 1, d, B(q) + i * d, F(s) + i);
    });
    // Per row: [first group's gate | its up | the second's gate | ...].
    Tensor gu = torch::empty({n, 2 * f}), a = torch::empty({n, f}), qa = Bf16(n, f), sa = torch::empty({n});
    const std::vector<Piece> pieces = Pieces(*params, *plan);
    ForEach(pieces.size(), [&](size_t index) {
      const Piece& p = pieces[index];
      const int64_t first = p.span.first, g = p.span.copy;
      const std::vector<float> scale = GateUpScale(p, g);
      float* out = F(gu) + first * 2 * f + 2 * p.offset;
      ops.gemm_codes(B(q) + first * d, d, p.span.count, p.gate_up->group_packed_t(g), 2 * p.neurons, d,
                     F(s) + first, scale.data(), false, out, 2 * f);
      ops.swiglu(out, out + p.neurons, 2 * f, p.span.count, p.neurons, F(a) + first * f + p.offset, f);
    });
    QuantizeRows(a, qa, sa);
    Tensor y = torch::empty({n, d});
    // The first group's pieces, then those of the next ones on top: a pass for each, since all write the
    // same rows.
    Tensor sorted = torch::empty({n, d});
    for (size_t group = 0; group < params->groups.size(); ++group) {
      ForEach(pieces.size(), [&](size_t index) {
        const Piece& p = pieces[index];
        if (p.group != group) return;
        const int64_t first = p.span.first;
        ops.gemm_codes(B(qa) + first * f + p.offset, f, p.span.count, p.down->group_packed(p.span.copy), d,
                       p.neurons, nullptr, nullptr, group > 0, F(sorted) + first * d, d);
      });
    }
    at::parallel_for(0, n, 128, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) {
        const float* from = F(sorted) + i * d;
        float* to = F(y) + order[i] * d;
        for (int64_t j = 0; j < d; ++j) to[j] = from[j] * F(sa)[i];
      }
    });
    ctx->save_for_backward({q, s, gu, qa, sa, y});
    ctx->saved_data["params"] = Address(params);
    ctx->saved_data["plan"] = c10::IValue::make_capsule(plan);
    (void)prob;
    return y;
  }

  // Gate rows' scales, then up rows' times the down columns'.
  static std::vector<float> GateUpScale(const Piece& p, int64_t group) {
    std::vector<float> scale(static_cast<size_t>(2 * p.neurons));
    const float *gate_up = p.gate_up->group_scale(group), *down = p.down->group_scale(group);
    for (int64_t i = 0; i < p.neurons; ++i) {
      scale[static_cast<size_t>(i)] = gate_up[i];
      scale[static_cast<size_t>(p.neurons + i)] = gate_up[p.neurons + i] * down[i];
    }
    return scale;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const CpuOps& ops = Ops();
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &s = saved[1], &gu = saved[2], &qa = saved[3], &sa = saved[4], &y = saved[5];
    const auto* params = Pointer<const ExpertParams>(ctx, "params");
    const c10::intrusive_ptr<torch::CustomClassHolder> kept = ctx->saved_data["plan"].toCapsule();
    const auto* plan = static_cast<const Plan*>(kept.get());
    const int32_t* order = plan->order.data();
    const Tensor dy = grads[0].contiguous();
    const int64_t n = q.size(0), d = q.size(1), f = qa.size(1);
    Tensor dprob = torch::empty({n}), dys = Bf16(n, d), dyw = Bf16(n, d);
    at::parallel_for(0, n, 128, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) {
        const float *grad = F(dy) + order[i] * d, *out = F(y) + order[i] * d;
        float part[16] = {};
        for (int64_t j = 0; j < d; ++j) part[j % 16] += grad[j] * out[j];
        F(dprob)[order[i]] = std::accumulate(part, part + 16, 0.0f);
        ops.to_bf16(grad, 1, d, d, nullptr, nullptr, B(dys) + i * d, d);
        ops.to_bf16(grad, 1, d, d, F(sa) + i, nullptr, B(dyw) + i * d, d);
      }
    });
    Tensor da = torch::empty({n, f}), dgu = torch::empty({n, 2 * f}), for_x = Bf16(n, 2 * f),
           for_w = Bf16(n, 2 * f);
    Tensor sorted = torch::empty({n, d}), dh = torch::empty({n, d});
    const std::vector<Piece> pieces = Pieces(*params, *plan);
    for (size_t group = 0; group < params->groups.size(); ++group) {
      ForEach(pieces.size(), [&](size_t index) {
        const Piece& p = pieces[index];
        if (p.group != group) return;
        const int64_t first = p.span.first, count = p.span.count, g = p.span.copy;
        const std::vector<float> scale = GateUpScale(p, g);
        ops.gemm(B(dys) + first * d, d, count, p.down->group_packed_t(g), p.neurons, d, nullptr, nullptr,
                 false, F(da) + first * f + p.offset, f);
        const int64_t at = first * 2 * f + 2 * p.offset;
        ops.swiglu_grad(F(gu) + at, F(gu) + at + p.neurons, 2 * f, count, p.neurons,
                        F(da) + first * f + p.offset, f, F(dgu) + at, F(dgu) + at + p.neurons, 2 * f);
        ops.to_bf16(F(dgu) + at, count, 2 * p.neurons, 2 * f, nullptr, scale.data(), B(for_x) + at, 2 * f);
        ops.to_bf16(F(dgu) + at, count, 2 * p.neurons, 2 * f, F(s) + first, nullptr, B(for_w) + at, 2 * f);
        ops.gemm(B(for_x) + at, 2 * f, count, p.gate_up->group_packed(g), d, 2 * p.neurons, nullptr, nullptr,
                 group > 0, F(sorted) + first * d, d);
      });
    }
    at::parallel_for(0, n, 256, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i)
        std::copy(F(sorted) + i * d, F(sorted) + (i + 1) * d, F(dh) + order[i] * d);
    });
    // Weight gradients: whole copies (one writer each), cut along the rows of the gradient instead.
    const std::vector<CopyGradient> tasks = CopyGradients(*params, *plan);
    ForEach(tasks.size(), [&](size_t index) {
      const CopyGradient& t = tasks[index];
      thread_local std::vector<uint32_t> scratch;
      scratch.resize(static_cast<size_t>(GemmTnScratch(t.rows, d)));
      for (const Plan::Span& span : t.spans) {
        const int64_t first = span.first;
        if (t.of_down) {
          ops.gemm_tn(B(qa) + first * f + t.offset + t.row, f, t.rows, B(dyw) + first * d, d, d, span.count,
                      true, t.param->group_grad(span.copy) + t.row * d, d, scratch.data());
        } else {
          ops.gemm_tn(B(for_w) + first * 2 * f + 2 * t.offset + t.row, 2 * f, t.rows, B(q) + first * d, d, d,
                      span.count, true, t.param->group_grad(span.copy) + t.row * d, d, scratch.data());
        }
      }
    });
    if (!params->gated) dprob.zero_();
    return {dh, dprob, Variable(), Variable()};
  }
};

}  // namespace

int64_t ExpertParams::neurons() const {
  return std::accumulate(groups.begin(), groups.end(), int64_t{0},
                         [](int64_t sum, const ExpertGroup& g) { return sum + g.neurons(); });
}

Tensor Experts(const Tensor& h, const Tensor& prob, const ExpertParams& params,
               std::shared_ptr<std::vector<int32_t>> route) {
  return ExpertsFn::apply(h, prob, &params, route.get());
}

}  // namespace omni::train
