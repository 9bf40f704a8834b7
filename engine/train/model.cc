#include "engine/train/model.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include <absl/strings/str_cat.h>

#include "engine/model/checkpoint.h"
#include "engine/train/cpu_ops.h"
#include "engine/train/exact.h"

namespace omni::train {
namespace {

using torch::Tensor;

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

float BitsToFloat(uint16_t b) {
  const uint32_t bits = static_cast<uint32_t>(b) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// Experts' tensors have a dimension for the group, of which the shared start uses the first.
bool IsGrouped(const std::string& name) {
  return name.find(".tied.") != std::string::npos || name.find(".own.") != std::string::npos;
}

}  // namespace

Carry Carry::Make(const ModelConfig& config, int64_t batch, int64_t memory) {
  Carry c;
  for (int64_t l = 0; l < config.layers; ++l) {
    if (config.IsAttention(l)) {
      c.keys.push_back(torch::zeros({batch, config.kv_heads, memory, config.head_dim()}));
      c.values.push_back(torch::zeros({batch, config.kv_heads, memory, config.head_dim()}));
    } else {
      c.pdr.push_back(torch::zeros({batch, config.r, config.d}));
    }
  }
  c.valid.assign(static_cast<size_t>(batch), 0);
  return c;
}

void Carry::ResetRow(int64_t row) {
  for (auto& s : pdr) s[row].zero_();
  valid[static_cast<size_t>(row)] = 0;
}

TrainModel::TrainModel(const ModelConfig& config, const InitSettings& init) : config_(config) {
  torch::NoGradGuard no_grad;
  auto gen = at::detail::createCPUGenerator(init.seed);
  const ModelConfig& c = config_;
  const int64_t d = c.d, f = c.f, own = c.own_neurons, tied = f - own, h = c.head_dim();
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
    const auto expert = [&](const char* name, int64_t groups, int64_t rows, double std_dev) {
      return Matrix(n + name, groups, rows, d, Coding::kTernary, std_dev, gen);
    };
    if (tied > 0) {
      layer.tied_gate_up = expert("tied.gate_up", c.num_regions(), 2 * tied, in_d);
      layer.tied_down = expert("tied.down", c.num_regions(), tied, in_f * depth);
    }
    if (own > 0) {
      layer.own_gate_up = expert("own.gate_up", c.num_experts(), 2 * own, in_d);
      layer.own_down = expert("own.down", c.num_experts(), own, in_f * depth);
    }
    for (auto [gate_up, down] : {std::pair{layer.tied_gate_up.get(), layer.tied_down.get()},
                                 std::pair{layer.own_gate_up.get(), layer.own_down.get()}}) {
      if (!down) continue;
      gate_up->stacked = {down->rows(), down->rows()};
      down->stacked = {down->rows()};
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
    e.tied_gate_up = layer.tied_gate_up.get();
    e.tied_down = layer.tied_down.get();
    e.own_gate_up = layer.own_gate_up.get();
    e.own_down = layer.own_down.get();
    for (int32_t i = 0; i < c.num_experts(); ++i) e.region_of.push_back(c.RegionOf(ExpertId(i)).value);
  }
  for (Param* p : params()) {
    p->grad = torch::zeros_like(p->w);
    p->m = torch::zeros_like(p->w);
    p->v = torch::zeros_like(p->w);
  }
}

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

Tensor TrainModel::Attention(const Tensor& z, int64_t batch, Carry& carry, size_t index) {
  const ModelConfig& c = config_;
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
      mixed = Attention(z, batch, carry, attention++);
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

std::vector<std::pair<std::string, Tensor>> TrainModel::NamedTensors() const {
  const ModelConfig& c = config_;
  std::vector<std::pair<std::string, Tensor>> out;
  const auto slice = [](const Param& p, int64_t first, int64_t rows) {
    return p.w[0].narrow(0, first, rows);
  };
  out.emplace_back("embed", embed_->w[0]);
  out.emplace_back("norm_out", norm_out_->w);
  for (int64_t l = 0; l < c.layers; ++l) {
    const Layer& layer = layers_[static_cast<size_t>(l)];
    const std::string n = absl::StrCat("layers.", l, ".");
    out.emplace_back(n + "norm1", layer.norm1->w);
    out.emplace_back(n + "norm2", layer.norm2->w);
    out.emplace_back(n + "wo", layer.mix_out->w[0]);
    if (c.IsAttention(l)) {
      const int64_t kv = c.kv_heads * c.head_dim();
      out.emplace_back(n + "wq", slice(*layer.mix_in, 0, c.d));
      out.emplace_back(n + "wk", slice(*layer.mix_in, c.d, kv));
      out.emplace_back(n + "wv", slice(*layer.mix_in, c.d + kv, kv));
      out.emplace_back(n + "gate", slice(*layer.gate_up, 0, c.f));
      out.emplace_back(n + "up", slice(*layer.gate_up, c.f, c.f));
      out.emplace_back(n + "down", layer.down->w[0]);
      continue;
    }
    out.emplace_back(n + "wp", slice(*layer.mix_in, 0, c.d));
    out.emplace_back(n + "wv", slice(*layer.mix_in, c.d, c.d));
    out.emplace_back(n + "wk", slice(*layer.mix_in, 2 * c.d, c.r));
    out.emplace_back(n + "wq", slice(*layer.mix_in, 2 * c.d + c.r, c.r));
    out.emplace_back(n + "bp", layer.bias->w);
    if (layer.norm_readout) out.emplace_back(n + "norm_readout", layer.norm_readout->w);
    out.emplace_back(n + "route", layer.route->w[0]);
    out.emplace_back(n + "positions", layer.positions);
    const auto experts = [&](const std::string& part, const Param* gate_up, const Param* down) {
      if (!down) return;
      const int64_t neurons = down->rows();
      out.emplace_back(n + part + ".gate", gate_up->w.narrow(1, 0, neurons));
      out.emplace_back(n + part + ".up", gate_up->w.narrow(1, neurons, neurons));
      out.emplace_back(n + part + ".down", down->w);
    };
    experts("tied", layer.tied_gate_up.get(), layer.tied_down.get());
    experts("own", layer.own_gate_up.get(), layer.own_down.get());
  }
  return out;
}

absl::Status TrainModel::SaveWeights(const std::string& path) const {
  absl::btree_map<std::string, TensorView> views;
  std::vector<Tensor> keep;
  for (const auto& [name, tensor] : NamedTensors()) {
    keep.push_back(tensor.contiguous());
    views[name] = {DType::kF32, keep.back().sizes().vec(), keep.back().data_ptr()};
  }
  return WriteSafetensors(path, views, {{"format", "omni-checkpoint-1"}});
}

absl::Status TrainModel::SaveStart(const std::string& path) const {
  absl::btree_map<std::string, TensorView> views;
  std::vector<Tensor> keep;
  for (const auto& [name, tensor] : NamedTensors()) {
    keep.push_back((IsGrouped(name) ? tensor.narrow(0, 0, 1) : tensor).to(torch::kHalf).contiguous());
    views[name] = {DType::kF16, keep.back().sizes().vec(), keep.back().data_ptr()};
  }
  return WriteSafetensors(path, views, {{"format", "omni-start-1"}});
}

absl::Status TrainModel::LoadStart(const std::string& path) {
  torch::NoGradGuard no_grad;
  auto file = SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  for (const auto& [name, tensor] : NamedTensors()) {
    std::vector<int64_t> shape = tensor.sizes().vec();
    if (IsGrouped(name)) shape[0] = 1;
    const auto it = file->tensors().find(name);
    if (it == file->tensors().end() || it->second.dtype != DType::kF16 || it->second.shape != shape) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": has no float16 tensor '", name,
                       "' of this model's shape; give the start.safetensors of a ",
                       "checkpoint with the same configuration"));
    }
    Tensor(tensor).copy_(torch::from_blob(const_cast<void*>(it->second.data), shape, torch::kHalf));
  }
  return absl::OkStatus();
}

absl::Status TrainModel::LoadWeights(const std::string& path) {
  torch::NoGradGuard no_grad;
  auto file = SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  for (const auto& [name, tensor] : NamedTensors()) {
    const auto data = file->F32(name, tensor.sizes().vec());
    if (!data.ok()) return data.status();
    Tensor(tensor).copy_(torch::from_blob(const_cast<float*>(*data), tensor.sizes(), torch::kFloat32));
  }
  return absl::OkStatus();
}

}  // namespace omni::train
