// The weights' files.
#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "engine/model/checkpoint.h"
#include "engine/train/model.h"

namespace omni::train {
namespace {

using torch::Tensor;

// Experts' tensors have a dimension for the group, of which the shared start uses the first.
bool IsGrouped(const std::string& name) {
  constexpr std::string_view kGroups[] = {".base.", ".tied.", ".member.", ".own."};
  return std::any_of(std::begin(kGroups), std::end(kGroups),
                     [&](std::string_view group) { return name.find(group) != std::string::npos; });
}

std::string MembersName(size_t layer) { return absl::StrCat("layers.", layer, ".members"); }

}  // namespace

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
    if (layer.bias_of_experts.defined()) out.emplace_back(n + "route_bias", layer.bias_of_experts);
    for (const Group& g : layer.groups) {
      const int64_t neurons = g.group.count;
      const std::string part = n + g.group.tensor;
      out.emplace_back(part + ".gate", g.gate_up->w.narrow(1, 0, neurons));
      out.emplace_back(part + ".up", g.gate_up->w.narrow(1, neurons, neurons));
      out.emplace_back(part + ".down", g.down->w);
    }
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
  for (size_t l = 0; l < layers_.size(); ++l) {
    const std::vector<uint8_t>& members = layers_[l].members;
    if (!members.empty())
      views[MembersName(l)] = {DType::kU8, {static_cast<int64_t>(members.size())}, members.data()};
  }
  return WriteSafetensors(path, views, {{"format", "omni-checkpoint-1"}});
}

absl::Status TrainModel::SaveStart(const std::string& path, const std::string& tokenizer_hash) const {
  absl::btree_map<std::string, TensorView> views;
  std::vector<Tensor> keep;
  for (const auto& [name, tensor] : NamedTensors()) {
    keep.push_back((IsGrouped(name) ? tensor.narrow(0, 0, 1) : tensor).to(torch::kHalf).contiguous());
    views[name] = {DType::kF16, keep.back().sizes().vec(), keep.back().data_ptr()};
  }
  return WriteSafetensors(path, views, {{"format", "omni-start-1"}, {"tokenizer_xxh3", tokenizer_hash}});
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
  for (size_t l = 0; l < layers_.size(); ++l) {
    std::vector<uint8_t>& members = layers_[l].members;
    if (members.empty()) continue;
    const auto data = file->U8(MembersName(l), {static_cast<int64_t>(members.size())});
    if (!data.ok()) return data.status();
    std::copy_n(*data, members.size(), members.begin());
    const auto highest = std::max_element(members.begin(), members.end());
    if (*highest >= config_.experts_per_region()) {
      return absl::DataLossError(absl::StrCat(path, ": '", MembersName(l), "' is damaged: member ",
                                              int{*highest}, " of a region of ", config_.experts_per_region(),
                                              " experts"));
    }
  }
  return absl::OkStatus();
}

}  // namespace omni::train
