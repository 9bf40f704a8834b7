#include "engine/train/model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/train/attention.h"
#include "engine/train/exact.h"

namespace omni::train {
namespace {

using torch::Tensor;

float BitsToFloat(uint16_t b) {
  const uint32_t bits = static_cast<uint32_t>(b) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

}  // namespace

std::vector<Param*> TrainModel::params(Part part) {
  std::vector<Param*> some = {embed_.get(), norm_out_.get()};
  for (Layer& l : layers_) {
    for (auto* p : {&l.norm1, &l.norm2, &l.mix_in, &l.bias, &l.norm_readout, &l.mix_out, &l.gate_up, &l.down,
                    &l.route, &l.tied_gate_up, &l.tied_down, &l.own_gate_up, &l.own_down}) {
      if (*p && (part == Part::kAll || (*p)->coding != Coding::kTernary)) some.push_back(p->get());
    }
  }
  return some;
}

void TrainModel::Quantize(bool shared_start, Part part) {
  for (Param* p : params(part)) {
    if (p->coding == Coding::kNone) continue;
    p->Quantize(p->coding == Coding::kTernary && shared_start ? 1 : p->groups());
  }
}

void TrainModel::ZeroGradients(Part part) {
  for (Param* p : params(part)) p->grad.zero_();
}

void TrainModel::FinishGradients(Part part, int64_t expert_steps) {
  torch::NoGradGuard no_grad;
  if (embedded_.defined() && embedded_.grad().defined()) {
    embed_->grad[0].index_add_(0, embedded_tokens_, embedded_.grad());
  }
  embedded_ = Tensor();
  if (part == Part::kAllButExperts) return;
  // y = sum a' T_down with a' = a * m_down: the straight-through gradient of a down column is divided by its
  // scale, that of an up row multiplied by it.
  const double share = 1.0 / static_cast<double>(expert_steps);
  for (Layer& layer : layers_) {
    for (auto [gate_up, down] : {std::pair{layer.tied_gate_up.get(), layer.tied_down.get()},
                                 std::pair{layer.own_gate_up.get(), layer.own_down.get()}}) {
      if (!down) continue;
      const int64_t neurons = down->rows();
      const Tensor scale = down->scale.unsqueeze(2);
      gate_up->grad.narrow(1, neurons, neurons).mul_(scale);
      down->grad.div_(scale.clamp_min(1e-12));
      if (expert_steps > 1) {
        gate_up->grad.mul_(share);
        down->grad.mul_(share);
      }
    }
  }
}

void TrainModel::PartExperts() {
  torch::NoGradGuard no_grad;
  for (Layer& layer : layers_) {
    for (Param* p :
         {layer.tied_gate_up.get(), layer.tied_down.get(), layer.own_gate_up.get(), layer.own_down.get()}) {
      if (!p) continue;
      for (Tensor* t : {&p->w, &p->m, &p->v}) t->copy_(t->narrow(0, 0, 1).expand_as(*t).clone());
    }
  }
}

void TrainModel::Embed(const Tensor& tokens) {
  const int64_t n = tokens.size(0), d = config_.d;
  embedded_ = torch::empty({n, d});
  embedded_tokens_ = tokens.to(torch::kInt64);
  const auto* id = tokens.data_ptr<int32_t>();
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t* code = embed_->group_codes(0) + id[i] * d;
    const float s = embed_->group_scale(0)[id[i]];
    float* row = embedded_.data_ptr<float>() + i * d;
    for (int64_t j = 0; j < d; ++j) row[j] = BitsToFloat(code[j]) * s;
  }
}

Tensor TrainModel::Trunk(const Tensor& tokens, int64_t batch, Carry& carry, const ForwardSettings& settings,
                         ForwardResult* result) {
  const ModelConfig& c = config_;
  const int64_t n = tokens.size(0);
  Embed(tokens);
  if (torch::GradMode::is_enabled()) embedded_.requires_grad_();
  Tensor x = embedded_;
  uint64_t key = settings.dropout_key * 0x9e3779b97f4a7c15ULL;
  const auto next_key = [&] { return (key = key * 6364136223846793005ULL + 1442695040888963407ULL) >> 8; };
  if (settings.dropout > 0) x = DropoutAdd(torch::zeros_like(x), x, next_key(), settings.dropout);
  size_t pdr = 0, attention = 0;
  for (int64_t l = 0; l < c.layers; ++l) {
    Layer& layer = layers_[static_cast<size_t>(l)];
    Tensor z = QuantLinear(RmsNorm(x, *layer.norm1), *layer.mix_in);
    Tensor mixed;
    if (c.IsAttention(l)) {
      mixed = Attention(z, c, batch, carry, attention++);
    } else {
      mixed = Pdr(z, *layer.bias, batch, c.d, c.r, c.key_scale, c.decay_floor, carry.pdr[pdr++]);
      if (layer.norm_readout) mixed = RmsNorm(mixed, *layer.norm_readout);
    }
    x = DropoutAdd(x, QuantLinear(mixed, *layer.mix_out), next_key(), settings.dropout);
    const Tensor h = RmsNorm(x, *layer.norm2);
    Tensor y;
    if (c.IsAttention(l)) {
      y = QuantLinear(Swiglu(QuantLinear(h, *layer.gate_up)), *layer.down);
    } else {
      layer.experts.shared_start = settings.shared_start;
      // The router learns from what it sees but does not steer it: its gradient, 1/temperature times the
      // gate's, would drown the trunk's.
      const RouterResult r =
          Route(h.detach().requires_grad_(torch::GradMode::is_enabled()), *layer.route, layer.positions,
                {.balance = settings.balance, .smoothness = settings.smoothness, .tokens = n / batch});
      result->balance += r.balance;
      result->smoothness += r.smoothness;
      for (int32_t e : *r.route) ++result->expert_counts[static_cast<size_t>(e)];
      y = Experts(h, r.prob, layer.experts, r.route);
    }
    x = DropoutAdd(x, y, next_key(), settings.dropout);
  }
  Advance(carry, n / batch);
  return RmsNorm(x, *norm_out_);
}

void TrainModel::Advance(Carry& carry, int64_t tokens) const {
  carry.position += tokens;
  const int64_t memory = carry.keys.empty() ? 0 : carry.keys[0].size(2);
  for (int64_t& v : carry.valid) v = std::min(memory, v + tokens);
  if (carry.position % config_.state_norm_period != 0) return;
  torch::NoGradGuard no_grad;
  const double limit = std::sqrt(static_cast<double>(config_.d * config_.r));
  for (Tensor& s : carry.pdr) {
    const Tensor norm = s.flatten(1).norm(2, 1);
    s.mul_((limit / norm).clamp_max(1.0).nan_to_num(1.0, 1.0, 1.0).view({-1, 1, 1}));
  }
}

ForwardResult TrainModel::Forward(const Tensor& tokens, const Tensor& targets, int64_t batch, Carry& carry,
                                  const ForwardSettings& settings) {
  ForwardResult result;
  result.expert_counts.assign(static_cast<size_t>(config_.num_experts()), 0);
  const Tensor y = Trunk(tokens, batch, carry, settings, &result);
  result.loss = HeadLoss(y, *embed_, targets);
  return result;
}

Tensor TrainModel::Logits(const Tensor& tokens, int64_t batch, Carry& carry,
                          std::vector<std::vector<int32_t>>* routes,
                          const std::vector<std::vector<int32_t>>* forced) {
  torch::NoGradGuard no_grad;
  const ModelConfig& c = config_;
  Embed(tokens);
  Tensor x = embedded_;
  embedded_ = Tensor();
  size_t pdr = 0, attention = 0, expert_layer = 0;
  for (int64_t l = 0; l < c.layers; ++l) {
    Layer& layer = layers_[static_cast<size_t>(l)];
    const Tensor z = QuantLinear(exact::RmsNorm(x, *layer.norm1), *layer.mix_in);
    Tensor mixed;
    if (c.IsAttention(l)) {
      mixed = exact::Attention(z, c, batch, carry, attention++);
    } else {
      mixed = exact::Pdr(z, *layer.bias, c, batch, carry.pdr[pdr++]);
      if (layer.norm_readout) mixed = exact::RmsNorm(mixed, *layer.norm_readout);
    }
    x = x + QuantLinear(mixed, *layer.mix_out);
    const Tensor h = exact::RmsNorm(x, *layer.norm2);
    if (c.IsAttention(l)) {
      x = x + QuantLinear(exact::Swiglu(QuantLinear(h, *layer.gate_up)), *layer.down);
      continue;
    }
    std::vector<int32_t> route = *Route(h, *layer.route, layer.positions, {}).route;
    if (forced) route = (*forced)[expert_layer];
    x = x + exact::Experts(h, layer.experts, route);
    if (routes) routes->push_back(std::move(route));
    ++expert_layer;
  }
  Advance(carry, tokens.size(0) / batch);
  return QuantLinear(exact::RmsNorm(x, *norm_out_), *embed_);
}

}  // namespace omni::train
