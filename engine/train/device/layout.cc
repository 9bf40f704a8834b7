#include "engine/train/device/layout.h"

#include <cmath>
#include <numbers>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>

#include "engine/base/splitmix.h"

namespace omni::train {
namespace {

class Maker {
 public:
  explicit Maker(std::vector<ParamLayout>* params) : params_(params) {}

  size_t Matrix(std::string name, int64_t groups, int64_t rows, int64_t cols, Coding coding, double std_dev,
                std::vector<int64_t> stacked) {
    params_->push_back({.name = std::move(name),
                        .groups = groups,
                        .rows = rows,
                        .cols = cols,
                        .matrix = true,
                        .coding = coding,
                        .decay = coding != Coding::kNone && !stacked.empty(),
                        .stacked = std::move(stacked),
                        .std_dev = std_dev});
    return params_->size() - 1;
  }
  size_t Vector(std::string name, int64_t n, float value) {
    params_->push_back({.name = std::move(name), .cols = n, .value = value});
    return params_->size() - 1;
  }

 private:
  std::vector<ParamLayout>* params_;
};

std::vector<float> Positions(const ModelConfig& c) {
  std::vector<float> positions;
  for (int64_t e = 0; e < c.num_experts(); ++e) {
    const int64_t at[3] = {e % c.lattice[0], e / c.lattice[0] % c.lattice[1],
                           e / (c.lattice[0] * c.lattice[1])};
    for (size_t axis = 0; axis < 3; ++axis)
      positions.push_back((static_cast<float>(at[axis]) + 0.5f) / static_cast<float>(c.lattice[axis]));
  }
  return positions;
}

}  // namespace

Layout MakeLayout(const ModelConfig& c, const InitSettings& init) {
  Layout out;
  Maker make(&out.params);
  const int64_t d = c.d, f = c.f, kv = c.kv_heads * c.head_dim();
  const double in_d = 1.0 / std::sqrt(static_cast<double>(d)), in_f = 1.0 / std::sqrt(static_cast<double>(f));
  const double depth = 1.0 / std::sqrt(2.0 * static_cast<double>(c.layers));  // residual branches start small
  out.embed = make.Matrix("embed", 1, c.vocab, d, Coding::kInt8, init.embed_std, {});
  out.norm_out =
      make.Vector("norm_out", d, init.logit_std / (init.embed_std * std::sqrt(static_cast<float>(d))));
  for (int64_t l = 0; l < c.layers; ++l) {
    LayerLayout& layer = out.layers.emplace_back();
    const std::string n = absl::StrCat("layers.", l, ".");
    layer.attention = c.IsAttention(l);
    layer.norm1 = make.Vector(n + "norm1", d, 1.0f);
    layer.norm2 = make.Vector(n + "norm2", d, 1.0f);
    layer.mix_out = make.Matrix(n + "wo", 1, d, d, Coding::kTwoBit, in_d * depth, {d});
    if (layer.attention) {
      layer.mix_in = make.Matrix(n + "qkv", 1, d + 2 * kv, d, Coding::kTwoBit, in_d, {d, kv, kv});
      layer.gate_up = make.Matrix(n + "gate_up", 1, 2 * f, d, Coding::kTwoBit, in_d, {f, f});
      layer.down = make.Matrix(n + "down", 1, d, f, Coding::kTwoBit, in_f * depth, {d});
      continue;
    }
    layer.mix_in = make.Matrix(n + "pvkq", 1, 2 * d + 2 * c.r, d, Coding::kTwoBit, in_d, {d, d, c.r, c.r});
    layer.bias = make.Vector(n + "bp", d, 0.0f);
    if (c.readout_norm) layer.norm_readout = make.Vector(n + "norm_readout", d, 1.0f);
    layer.route = make.Matrix(n + "route", 1, 3, d, Coding::kNone, init.route_std * in_d, {});
    for (const NeuronGroup& group : NeuronGroups(c)) {
      const std::string name = absl::StrCat(n, group.tensor, ".");
      GroupLayout& g = layer.groups.emplace_back();
      g.group = group;
      g.gate_up = make.Matrix(name + "gate_up", group.copies, 2 * group.count, d, Coding::kTernary, in_d,
                              {group.count, group.count});
      g.down = make.Matrix(name + "down", group.copies, group.count, d, Coding::kTernary, in_f * depth,
                           {group.count});
      for (int32_t e = 0; e < c.num_experts(); ++e)
        g.copy_of.push_back(static_cast<int32_t>(group.CopyOf(c, ExpertId(e))));
    }
  }
  for (int32_t e = 0; e < c.num_experts(); ++e) out.region_of.push_back(c.RegionOf(ExpertId(e)).value);
  out.positions = Positions(c);
  return out;
}

std::vector<float> FirstWeights(const ModelConfig& c, const InitSettings& init, const ParamLayout& p,
                                uint64_t key) {
  std::vector<float> w(static_cast<size_t>(p.size()), p.value);
  if (absl::EndsWith(p.name, ".bp")) {
    for (int64_t i = 0; i < c.d; ++i) {
      const double share = c.d > 1 ? static_cast<double>(i) / static_cast<double>(c.d - 1) : 0.0;
      const double gap = std::exp((1 - share) * std::log(1.0 - static_cast<double>(init.gamma_min)) +
                                  share * std::log(1.0 - static_cast<double>(init.gamma_max)));
      w[static_cast<size_t>(i)] = static_cast<float>(std::log((1 - gap) / gap));
    }
  }
  if (!p.matrix) return w;
  uint64_t drawn = 0;
  const auto uniform = [&] { return CounterUniform(key, drawn++) + 0x1p-54; };
  for (float& x : w) {  // Box and Muller
    const double radius = std::sqrt(-2.0 * std::log(uniform()));
    x = static_cast<float>(p.std_dev * radius * std::cos(2.0 * std::numbers::pi * uniform()));
  }
  if (absl::EndsWith(p.name, ".pvkq")) {  // the rows of p, by which decays depend on the token
    for (int64_t i = 0; i < c.d * c.d; ++i) w[static_cast<size_t>(i)] *= init.decay_weight_std;
  }
  return w;
}

}  // namespace omni::train
