#include "engine/train/model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <span>

#include <absl/strings/str_cat.h>

#include "engine/train/attention.h"
#include "engine/train/copies.h"
#include "engine/train/exact.h"
#include "engine/train/slow_route.h"

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
  const auto add = [&](const std::unique_ptr<Param>& p) {
    if (!p) return;
    const bool gathers = p->coding == Coding::kTernary && p->live_groups() > 1;
    if (part == Part::kAll || !gathers) some.push_back(p.get());
  };
  for (Layer& l : layers_) {
    for (auto* p : {&l.norm1, &l.norm2, &l.mix_in, &l.bias, &l.norm_readout, &l.mix_out, &l.gate_up, &l.down,
                    &l.route}) {
      add(*p);
    }
    for (const Group& g : l.groups) {
      add(g.gate_up);
      add(g.down);
    }
  }
  return some;
}

void TrainModel::SetParted(NeuronKind kind, bool parted) {
  for (Layer& layer : layers_) {
    if (layer.groups.empty()) continue;
    layer.experts.gated = false;
    for (Group& g : layer.groups) {
      if (g.group.kind == kind) g.gate_up->parted = g.down->parted = parted && kind != NeuronKind::kBase;
      // By address the member is the token's affair.
      const bool router_chooses = !(by_address() && g.group.kind == NeuronKind::kMember);
      if (g.down->parted && router_chooses) layer.experts.gated = true;
    }
  }
}

void TrainModel::PartGroup(NeuronKind kind, double noise, uint64_t key) {
  for (Layer& layer : layers_) {
    for (Group& g : layer.groups) {
      if (g.group.kind != kind) continue;
      for (Param* p : {g.gate_up.get(), g.down.get()}) {
        Divide(p->w, noise, ++key);
        for (Tensor* t : {&p->m, &p->v}) Divide(*t, 0, 0);
      }
    }
  }
  SetParted(kind, true);
}

void TrainModel::CountUse(const Routes& routes) {
  size_t index = 0;
  for (Layer& layer : layers_) {
    if (layer.groups.empty()) continue;
    for (size_t g = 0; g < layer.groups.size(); ++g) {
      std::vector<int64_t>& used = layer.groups[g].used;
      used.resize(static_cast<size_t>(layer.groups[g].group.copies), 0);
      for (int32_t e : routes[index])
        ++used[static_cast<size_t>(layer.experts.groups[g].copy_of[static_cast<size_t>(e)])];
    }
    ++index;
  }
}

void TrainModel::SetRatesByUse(double power) {
  for (Layer& layer : layers_) {
    for (Group& g : layer.groups) {
      const int64_t total = std::accumulate(g.used.begin(), g.used.end(), int64_t{0});
      const bool differ = g.down->live_groups() > 1;
      g.gate_up->rates = g.down->rates = differ ? RatesByUse(g.used, total, power) : std::vector<float>();
      g.used.clear();
    }
  }
}

void TrainModel::PullOwn(double share) {
  for (Layer& layer : layers_) {
    for (Group& g : layer.groups) {
      if (g.group.kind != NeuronKind::kOwn || !g.down->parted) continue;
      for (Param* p : {g.gate_up.get(), g.down.get()}) PullToRegions(p->w, layer.experts.region_of, share);
    }
  }
}

void TrainModel::DealMembers(const std::function<std::vector<uint8_t>(uint64_t key)>& deal) {
  for (size_t l = 0; by_address() && l < layers_.size(); ++l) {
    if (layers_[l].groups.empty()) continue;
    layers_[l].members = deal(l);
  }
}

void TrainModel::Address(const Layer& layer, const Tensor& tokens, std::vector<int32_t>* route) const {
  if (!by_address()) return;
  const auto* id = tokens.data_ptr<int32_t>();
  for (size_t i = 0; i < route->size(); ++i) {
    const RegionId region(layer.experts.region_of[static_cast<size_t>((*route)[i])]);
    (*route)[i] = config_.ExpertOf(region, layer.members[static_cast<size_t>(id[i])]).value;
  }
}

void TrainModel::Balance(const Routes& routes, const BalanceSettings& settings) {
  std::vector<int32_t> itself(static_cast<size_t>(config_.num_experts()));
  std::iota(itself.begin(), itself.end(), 0);
  size_t index = 0;
  for (Layer& layer : layers_) {
    if (!layer.bias_of_experts.defined()) continue;
    const auto values = [](Tensor& t) {
      return std::span<float>(t.data_ptr<float>(), static_cast<size_t>(t.numel()));
    };
    BalanceExperts(routes[index++], by_address() ? layer.experts.region_of : itself, settings,
                   values(layer.loads), values(layer.bias_of_experts));
  }
}

void TrainModel::KeepMeanOutputs() {
  const int64_t choices = by_address() ? config_.num_regions() : config_.num_experts();
  for (Layer& layer : layers_) {
    if (!layer.groups.empty()) layer.mean_outputs = torch::zeros({choices, config_.d});
  }
}

std::vector<std::pair<std::string, Tensor*>> TrainModel::means() {
  std::vector<std::pair<std::string, Tensor*>> all;
  for (size_t l = 0; l < layers_.size(); ++l) {
    Layer& layer = layers_[l];
    if (layer.loads.defined()) all.emplace_back(absl::StrCat("loads.", l), &layer.loads);
    if (layer.mean_outputs.defined()) all.emplace_back(absl::StrCat("mean_outputs.", l), &layer.mean_outputs);
  }
  return all;
}

void TrainModel::Quantize(Part part) {
  for (Param* p : params(part)) {
    if (p->coding != Coding::kNone) p->Quantize();
  }
}

void TrainModel::ZeroGradients(Part part) {
  for (Param* p : params(part)) p->grad.zero_();
}

void TrainModel::FinishGradients(Part part, int64_t parted_steps) {
  torch::NoGradGuard no_grad;
  if (embedded_.defined() && embedded_.grad().defined()) {
    embed_->grad[0].index_add_(0, embedded_tokens_, embedded_.grad());
  }
  embedded_ = Tensor();
  // y = sum a' T_down with a' = a * m_down: the straight-through gradient of a down column is divided by its
  // scale, that of an up row multiplied by it.
  const double share = 1.0 / static_cast<double>(parted_steps);
  for (Layer& layer : layers_) {
    for (Group& g : layer.groups) {
      Param *gate_up = g.gate_up.get(), *down = g.down.get();
      const bool gathers = down->live_groups() > 1;
      if (part == Part::kAllButParted && gathers) continue;
      const int64_t neurons = down->rows();
      const Tensor scale = down->scale.unsqueeze(2);
      gate_up->grad.narrow(1, neurons, neurons).mul_(scale);
      down->grad.div_(scale.clamp_min(1e-12));
      if (parted_steps > 1 && gathers) {
        gate_up->grad.mul_(share);
        down->grad.mul_(share);
      }
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
      // The router learns from what it sees but does not steer it: its gradient, 1/temperature times the
      // gate's, would drown the trunk's.
      const Tensor seen = h.detach();
      const Tensor rows = c.has_slow_state() ? SlowRows(seen, c.slow_rate, batch, carry.slow[pdr - 1]) : seen;
      const RouterResult r =
          Route(rows.requires_grad_(torch::GradMode::is_enabled()), *layer.route, layer.positions,
                {.balance = settings.balance,
                 .smoothness = settings.smoothness,
                 .tokens = n / batch,
                 .bias = layer.bias_of_experts,
                 .region_of = by_address() ? &layer.experts.region_of : nullptr,
                 .untaken = layer.mean_outputs.defined()});
      result->balance += r.balance;
      result->smoothness += r.smoothness;
      Address(layer, tokens, r.route.get());
      result->routes.push_back(*r.route);
      y = Experts(h, r.prob, layer.experts, r.route);
      if (layer.mean_outputs.defined() && layer.experts.gated && torch::GradMode::is_enabled()) {
        std::vector<int32_t> taken = *r.route;
        if (by_address()) {
          for (int32_t& e : taken) e = layer.experts.region_of[static_cast<size_t>(e)];
        }
        y = WithUntaken(y, r.untaken, layer.mean_outputs, taken);
        UpdateMeanOutputs(y, taken, layer.mean_outputs);
      }
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
  const Tensor y = Trunk(tokens, batch, carry, settings, &result);
  result.loss = HeadLoss(y, *embed_, targets, settings.soft);
  return result;
}

std::pair<Tensor, Tensor> TrainModel::MostLikely(const Tensor& tokens, int64_t batch, Carry& carry,
                                                 int64_t count) {
  torch::NoGradGuard no_grad;
  ForwardResult result;
  const Tensor y = Trunk(tokens, batch, carry, {}, &result);
  embedded_ = Tensor();
  constexpr int64_t kRows = 512;  // so that not all logits stand in memory at once
  std::vector<Tensor> values, ids;
  for (int64_t first = 0; first < y.size(0); first += kRows) {
    const Tensor rows = y.narrow(0, first, std::min(kRows, y.size(0) - first)).contiguous();
    const auto [value, id] = torch::softmax(QuantLinear(rows, *embed_), 1).topk(count, 1);
    values.push_back(value);
    ids.push_back(id);
  }
  return {torch::cat(values), torch::cat(ids)};
}

Routes TrainModel::RoutesOf(const Tensor& tokens, int64_t batch, int64_t memory) {
  torch::NoGradGuard no_grad;
  Carry carry = Carry::Make(config_, batch, memory);
  ForwardResult result;
  Trunk(tokens, batch, carry, {}, &result);
  embedded_ = Tensor();
  return std::move(result.routes);
}

Tensor TrainModel::Logits(const Tensor& tokens, int64_t batch, Carry& carry, Routes* routes,
                          const Routes* forced) {
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
    const Tensor rows = c.has_slow_state() ? SlowRows(h, c.slow_rate, batch, carry.slow[expert_layer]) : h;
    std::vector<int32_t> route = exact::Nearest(rows, *layer.route, layer.positions, layer.bias_of_experts);
    Address(layer, tokens, &route);
    if (forced) route = (*forced)[expert_layer];
    x = x + exact::Experts(h, layer.experts, route);
    if (routes) routes->push_back(std::move(route));
    ++expert_layer;
  }
  Advance(carry, tokens.size(0) / batch);
  return QuantLinear(exact::RmsNorm(x, *norm_out_), *embed_);
}

}  // namespace omni::train
