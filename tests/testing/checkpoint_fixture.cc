#include "tests/testing/checkpoint_fixture.h"

#include <absl/strings/str_cat.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "engine/model/checkpoint.h"
#include "engine/model/neuron_groups.h"
#include "tests/testing/random_model.h"

namespace omni::testing {
namespace {

constexpr char kText[] =
    "the quick brown fox jumps over the lazy dog. the dog sleeps, the fox runs over the hill and "
    "through the thick forest. then there were three, and the other thing is that they think.";

class Maker {
 public:
  Maker(Checkpoint* out, uint64_t seed) : out_(out), random_(seed) {}

  void Normal(const std::string& name, std::vector<int64_t> shape, float deviation, float mean = 0.0f) {
    Tensor tensor{std::move(shape), {}};
    int64_t count = 1;
    for (const int64_t n : tensor.shape) count *= n;
    tensor.values.resize(static_cast<size_t>(count));
    for (float& v : tensor.values) v = mean + deviation * random_.Normal();
    out_->tensors[name] = std::move(tensor);
  }
  void CellCentres(const std::string& name) {
    const ModelConfig& c = out_->config;
    Tensor tensor{{c.num_experts(), 3}, {}};
    for (int64_t e = 0; e < c.num_experts(); ++e) {
      const int64_t at[3] = {e % c.lattice[0], e / c.lattice[0] % c.lattice[1],
                             e / c.lattice[0] / c.lattice[1]};
      for (size_t axis = 0; axis < 3; ++axis) {
        tensor.values.push_back((static_cast<float>(at[axis]) + 0.5f) / static_cast<float>(c.lattice[axis]));
      }
    }
    out_->tensors[name] = std::move(tensor);
  }

  void Members(const std::string& name) {
    const ModelConfig& c = out_->config;
    Tensor tensor{{c.vocab}, {}, {}};
    for (int64_t token = 0; token < c.vocab; ++token)
      tensor.bytes.push_back(static_cast<uint8_t>(random_.Below(c.experts_per_region())));
    out_->tensors[name] = std::move(tensor);
  }

 private:
  Checkpoint* out_;
  Random random_;
};

void MakeLayer(const ModelConfig& c, int64_t layer, Maker& make) {
  const std::string p = absl::StrCat("layers.", layer, ".");
  const float deviation = 1.0f / std::sqrt(static_cast<float>(c.d));
  make.Normal(p + "norm1", {c.d}, 0.05f, 1.0f);
  make.Normal(p + "norm2", {c.d}, 0.05f, 1.0f);
  if (c.IsAttention(layer)) {
    const int64_t kv = c.kv_heads * c.head_dim();
    make.Normal(p + "wq", {c.d, c.d}, deviation);
    make.Normal(p + "wk", {kv, c.d}, deviation);
    make.Normal(p + "wv", {kv, c.d}, deviation);
    make.Normal(p + "wo", {c.d, c.d}, deviation);
    make.Normal(p + "gate", {c.f, c.d}, deviation);
    make.Normal(p + "up", {c.f, c.d}, deviation);
    make.Normal(p + "down", {c.d, c.f}, deviation);
    return;
  }
  make.Normal(p + "wp", {c.d, c.d}, 0.1f * deviation);
  make.Normal(p + "bp", {c.d}, 0.5f, 1.0f);
  make.Normal(p + "wk", {c.r, c.d}, deviation);
  make.Normal(p + "wq", {c.r, c.d}, deviation);
  make.Normal(p + "wv", {c.d, c.d}, deviation);
  make.Normal(p + "wo", {c.d, c.d}, deviation);
  if (c.readout_norm) make.Normal(p + "norm_readout", {c.d}, 0.05f, 1.0f);
  for (const char* part : {"gate", "up", "down"}) {
    for (const NeuronGroup& group : NeuronGroups(c))
      make.Normal(absl::StrCat(p, group.tensor, ".", part), {group.copies, group.count, c.d}, deviation);
  }
  make.Normal(p + "route", {3, c.d}, 2.0f * deviation);
  make.CellCentres(p + "positions");
  if (c.route_bias) make.Normal(p + "route_bias", {c.num_experts()}, 0.02f);
  if (c.route_from == RouteFrom::kAddress) make.Members(p + "members");
}

}  // namespace

Checkpoint RandomCheckpoint(const ModelConfig& config, uint64_t seed) {
  Checkpoint out;
  out.config = config;
  out.tokenizer = *Tokenizer::Train(kText, config.vocab);
  Maker make(&out, seed);
  make.Normal("embed", {config.vocab, config.d}, 1.0f / std::sqrt(static_cast<float>(config.d)));
  make.Normal("norm_out", {config.d}, 0.05f, 1.0f);
  for (int64_t layer = 0; layer < config.layers; ++layer) MakeLayer(config, layer, make);
  return out;
}

absl::Status WriteCheckpoint(const std::string& path, const Checkpoint& checkpoint) {
  std::error_code error;
  if (!std::filesystem::create_directory(path, error)) {
    return absl::UnavailableError(absl::StrCat("cannot make ", path, ": ", error.message()));
  }
  std::ofstream(path + "/config.json") << ToJson(checkpoint.config);
  if (absl::Status s = checkpoint.tokenizer.Save(path + "/tokenizer.omni"); !s.ok()) return s;
  absl::btree_map<std::string, TensorView> views;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    TensorView view;
    view.shape = tensor.shape;
    view.data = tensor.values.data();
    if (!tensor.bytes.empty()) view.dtype = DType::kU8, view.data = tensor.bytes.data();
    views[name] = view;
  }
  return WriteSafetensors(path + "/model.safetensors", views, {});
}

absl::Status WriteRandomCheckpoint(const std::string& path, const ModelConfig& config, uint64_t seed) {
  return WriteCheckpoint(path, RandomCheckpoint(config, seed));
}

ModelConfig SmallConfig() {
  ModelConfig c;
  c.preset = "small-test";
  c.layers = 4;
  c.d = 64, c.r = 8, c.f = 128;
  c.heads = 4, c.kv_heads = 2, c.window = 16;
  c.vocab = 270;
  c.lattice = {4, 2, 1}, c.region = {2, 2, 1};
  c.own_neurons = 64;
  return c;
}

ModelConfig OddCheckpointConfig() {
  ModelConfig c;
  c.preset = "odd-test";
  c.layers = 5, c.attention_period = 3;
  c.d = 70, c.r = 5, c.f = 130;
  c.heads = 5, c.kv_heads = 1, c.window = 7;
  c.vocab = 261;
  c.lattice = {3, 2, 1}, c.region = {1, 2, 1};
  c.own_neurons = 66;
  return c;
}

ModelConfig ShortConfig() {
  ModelConfig c = OddCheckpointConfig();
  c.layers = 3;
  return c;
}

Checkpoint NearlyEqualExperts(const ModelConfig& config) {
  testing::Checkpoint c = RandomCheckpoint(config, 5);
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    if (config.IsAttention(layer)) continue;
    for (const char* part : {"gate", "up", "down"}) {
      std::vector<float>& own = c.tensors.at("layers." + std::to_string(layer) + ".own." + part).values;
      const int64_t size = config.own_neurons * config.d;
      for (int32_t e = 0; e < config.num_experts(); ++e) {
        const int32_t keyframe = config.ExpertOf(config.RegionOf(ExpertId(e)), 0).value;
        if (keyframe == e) continue;
        std::copy_n(own.begin() + keyframe * size, size, own.begin() + e * size);
        for (int64_t i = 0; i < 3; ++i) own[static_cast<size_t>(e * size + 17 * e + 5 * i)] *= -1.0f;
      }
    }
  }
  return c;
}

}  // namespace omni::testing
