// The parameters of a model that has not been trained yet.
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

#include <absl/strings/str_cat.h>

#include "engine/train/members.h"
#include "engine/train/model.h"

namespace omni::train {
namespace {

std::unique_ptr<Param> Matrix(const std::string& name, int64_t groups, int64_t rows, int64_t cols,
                              Coding coding, double std_dev, torch::Generator& generator) {
  auto p = std::make_unique<Param>();
  p->name = name;
  p->w = torch::empty({groups, rows, cols}).normal_(0.0, std_dev, generator);
  p->coding = coding;
  p->decay = coding != Coding::kNone;
  return p;
}

std::unique_ptr<Param> Vector(const std::string& name, int64_t n, float value) {
  auto p = std::make_unique<Param>();
  p->name = name;
  p->w = torch::full({n}, value);
  return p;
}

}  // namespace

TrainModel::TrainModel(const ModelConfig& config, const InitSettings& init) : config_(config) {
  torch::NoGradGuard no_grad;
  auto gen = at::detail::createCPUGenerator(init.seed);
  const ModelConfig& c = config_;
  const int64_t d = c.d, f = c.f, h = c.head_dim();
  const double in_d = 1.0 / std::sqrt(static_cast<double>(d)), in_f = 1.0 / std::sqrt(static_cast<double>(f));
  const double depth = 1.0 / std::sqrt(2.0 * static_cast<double>(c.layers));  // residual branches start small
  embed_ = Matrix("embed", 1, c.vocab, d, Coding::kInt8, init.embed_std, gen);
  embed_->decay = false;
  norm_out_ = Vector("norm_out", d, init.logit_std / (init.embed_std * std::sqrt(static_cast<float>(d))));
  for (int64_t l = 0; l < c.layers; ++l) {
    layers_.emplace_back();
    Layer& layer = layers_.back();
    const std::string n = absl::StrCat("layers.", l, ".");
    layer.norm1 = Vector(n + "norm1", d, 1.0f);
    layer.norm2 = Vector(n + "norm2", d, 1.0f);
    layer.mix_out = Matrix(n + "wo", 1, d, d, Coding::kTwoBit, in_d * depth, gen);
    layer.mix_out->stacked = {d};
    if (c.IsAttention(l)) {
      layer.mix_in = Matrix(n + "qkv", 1, d + 2 * c.kv_heads * h, d, Coding::kTwoBit, in_d, gen);
      layer.gate_up = Matrix(n + "gate_up", 1, 2 * f, d, Coding::kTwoBit, in_d, gen);
      layer.down = Matrix(n + "down", 1, d, f, Coding::kTwoBit, in_f * depth, gen);
      layer.mix_in->stacked = {d, c.kv_heads * h, c.kv_heads * h};
      layer.gate_up->stacked = {f, f};
      layer.down->stacked = {d};
      continue;
    }
    layer.mix_in = Matrix(n + "pvkq", 1, 2 * d + 2 * c.r, d, Coding::kTwoBit, in_d, gen);
    layer.mix_in->w.narrow(1, 0, d).mul_(init.decay_weight_std);
    layer.mix_in->stacked = {d, d, c.r, c.r};
    layer.bias = Vector(n + "bp", d, 0.0f);
    for (int64_t i = 0; i < d; ++i) {
      const double share = d > 1 ? static_cast<double>(i) / static_cast<double>(d - 1) : 0.0;
      const double gap =
          std::exp((1 - share) * std::log(1.0 - init.gamma_min) + share * std::log(1.0 - init.gamma_max));
      layer.bias->w[i] = std::log((1 - gap) / gap);
    }
    if (c.readout_norm) layer.norm_readout = Vector(n + "norm_readout", d, 1.0f);
    layer.route = Matrix(n + "route", 1, 3, d, Coding::kNone, init.route_std * in_d, gen);
    const auto expert = [&](const std::string& name, int64_t groups, int64_t rows, double std_dev) {
      return Matrix(n + name, groups, rows, d, Coding::kTernary, std_dev, gen);
    };
    for (const NeuronGroup& group : NeuronGroups(c)) {
      const std::string name = absl::StrCat(group.tensor, ".");
      Group& g = layer.groups.emplace_back();
      g.group = group;
      g.gate_up = expert(name + "gate_up", group.copies, 2 * group.count, in_d);
      g.down = expert(name + "down", group.copies, group.count, in_f * depth);
      g.gate_up->stacked = {group.count, group.count};
      g.down->stacked = {group.count};
    }
    if (c.route_bias) {
      const int64_t balanced = by_address() ? c.num_regions() : c.num_experts();
      layer.bias_of_experts = torch::zeros({c.num_experts()});
      layer.loads = torch::full({balanced}, 1.0f / static_cast<float>(balanced));
    }
    layer.positions = torch::empty({c.num_experts(), 3});
    for (int64_t e = 0; e < c.num_experts(); ++e) {
      const int64_t at[3] = {e % c.lattice[0], e / c.lattice[0] % c.lattice[1],
                             e / (c.lattice[0] * c.lattice[1])};
      for (int axis = 0; axis < 3; ++axis) {
        layer.positions[e][axis] =
            (static_cast<float>(at[axis]) + 0.5f) / static_cast<float>(c.lattice[static_cast<size_t>(axis)]);
      }
    }
  }
  for (Layer& layer : layers_) {
    if (!layer.route) continue;
    ExpertParams& e = layer.experts;
    for (const Group& g : layer.groups) {
      ExpertGroup& group = e.groups.emplace_back(ExpertGroup{g.gate_up.get(), g.down.get(), {}});
      for (int32_t i = 0; i < c.num_experts(); ++i)
        group.copy_of.push_back(static_cast<int32_t>(g.group.CopyOf(c, ExpertId(i))));
    }
    for (int32_t i = 0; i < c.num_experts(); ++i) e.region_of.push_back(c.RegionOf(ExpertId(i)).value);
  }
  for (Param* p : params()) {
    p->grad = torch::zeros_like(p->w);
    p->m = torch::zeros_like(p->w);
    p->v = torch::zeros_like(p->w);
  }
  SetParted(NeuronKind::kBase, false);
  const std::vector<int64_t> once(static_cast<size_t>(c.vocab), 1);
  DealMembers(
      [&](uint64_t key) { return train::DealMembers(once, c.experts_per_region(), init.seed + key); });
}

}  // namespace omni::train
