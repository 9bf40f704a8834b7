#include "engine/train/device/device_checkpoint.h"

#include <algorithm>
#include <deque>
#include <filesystem>
#include <functional>
#include <utility>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include "engine/base/replace_file.h"
#include "engine/model/checkpoint.h"
#include "engine/train/run_directory.h"

namespace omni::train {
namespace {

namespace fs = std::filesystem;

// A tensor of model.safetensors: some rows of every group of a parameter.
struct Slice {
  std::string name;
  std::vector<int64_t> shape;
  size_t param;
  int64_t first, rows;
};

std::vector<Slice> Slices(const DeviceModel& model) {
  const ModelConfig& c = model.config;
  const Layout& layout = model.layout;
  std::vector<Slice> out;
  const auto add = [&](const std::string& name, size_t p, int64_t first, int64_t rows, bool grouped = false) {
    const ParamLayout& param = layout.params[p];
    std::vector<int64_t> shape;
    if (grouped) shape.push_back(param.groups);
    if (param.matrix) shape.push_back(rows);
    shape.push_back(param.cols);
    out.push_back({name, std::move(shape), p, first, rows});
  };
  add("embed", layout.embed, 0, c.vocab);
  add("norm_out", layout.norm_out, 0, 1);
  for (size_t l = 0; l < layout.layers.size(); ++l) {
    const LayerLayout& layer = layout.layers[l];
    const std::string n = absl::StrCat("layers.", l, ".");
    add(n + "norm1", layer.norm1, 0, 1);
    add(n + "norm2", layer.norm2, 0, 1);
    add(n + "wo", layer.mix_out, 0, c.d);
    if (layer.attention) {
      const int64_t kv = c.kv_heads * c.head_dim();
      add(n + "wq", layer.mix_in, 0, c.d);
      add(n + "wk", layer.mix_in, c.d, kv);
      add(n + "wv", layer.mix_in, c.d + kv, kv);
      add(n + "gate", layer.gate_up, 0, c.f);
      add(n + "up", layer.gate_up, c.f, c.f);
      add(n + "down", layer.down, 0, c.d);
      continue;
    }
    add(n + "wp", layer.mix_in, 0, c.d);
    add(n + "wv", layer.mix_in, c.d, c.d);
    add(n + "wk", layer.mix_in, 2 * c.d, c.r);
    add(n + "wq", layer.mix_in, 2 * c.d + c.r, c.r);
    add(n + "bp", layer.bias, 0, 1);
    if (layer.norm_readout != kNoParam) add(n + "norm_readout", layer.norm_readout, 0, 1);
    add(n + "route", layer.route, 0, 3);
    for (const GroupLayout& g : layer.groups) {
      const std::string part = n + g.group.tensor;
      add(part + ".gate", g.gate_up, 0, g.group.count, true);
      add(part + ".up", g.gate_up, g.group.count, g.group.count, true);
      add(part + ".down", g.down, 0, g.group.count, true);
    }
  }
  return out;
}

// fn(layer, tables of its experts) of every expert layer.
template <typename Model, typename Fn>
void ForExpertLayers(Model& model, const Fn& fn) {
  size_t index = 0;
  for (size_t l = 0; l < model.layout.layers.size(); ++l) {
    if (!model.layout.layers[l].attention) fn(l, model.tables[index++]);
  }
}

// Floats that views point to.
class Kept {
 public:
  const float* Add(std::vector<float> values) { return values_.emplace_back(std::move(values)).data(); }

 private:
  std::deque<std::vector<float>> values_;
};

absl::Status SaveWeights(const std::string& path, const DeviceModel& model, DeviceStep& step) {
  absl::btree_map<std::string, TensorView> views;
  Kept kept;
  std::vector<std::vector<float>> params(model.layout.params.size());
  for (size_t p = 0; p < params.size(); ++p) {
    params[p].resize(static_cast<size_t>(model.layout.params[p].size()));
    step.GetParam(p, params[p].data(), nullptr, nullptr);
  }
  for (const Slice& s : Slices(model)) {
    const ParamLayout& param = model.layout.params[s.param];
    std::vector<float> values;
    for (int64_t g = 0; g < param.groups; ++g) {
      const auto from = params[s.param].begin() + (g * param.rows + s.first) * param.cols;
      values.insert(values.end(), from, from + s.rows * param.cols);
    }
    views[s.name] = {DType::kF32, s.shape, kept.Add(std::move(values))};
  }
  ForExpertLayers(model, [&](size_t l, const ExpertTables& t) {
    const std::string n = absl::StrCat("layers.", l, ".");
    const auto experts = model.config.num_experts();
    views[n + "positions"] = {DType::kF32, {experts, 3}, model.layout.positions.data()};
    if (!t.bias.empty()) views[n + "route_bias"] = {DType::kF32, {experts}, t.bias.data()};
    if (!t.members.empty())
      views[n + "members"] = {DType::kU8, {static_cast<int64_t>(t.members.size())}, t.members.data()};
  });
  return WriteSafetensors(path, views, {{"format", "omni-checkpoint-1"}});
}

std::vector<int64_t> ParamShape(const ParamLayout& param) {
  if (!param.matrix) return {param.cols};
  return {param.groups, param.rows, param.cols};
}

// fn(name, shape, values) of the carried state's tensors.
template <typename State, typename Fn>
void ForCarried(const DeviceModel& model, State& carried, const Fn& fn) {
  const ModelConfig& c = model.config;
  for (size_t i = 0; i < carried.pdr.size(); ++i)
    fn(absl::StrCat("carry.pdr.", i), std::vector<int64_t>{model.batch, c.r, c.d}, carried.pdr[i]);
  for (size_t i = 0; i < carried.slow.size(); ++i)
    fn(absl::StrCat("carry.slow.", i), std::vector<int64_t>{model.batch, c.d}, carried.slow[i]);
  const std::vector<int64_t> heads = {model.batch, c.kv_heads, model.memory, c.head_dim()};
  for (size_t i = 0; i < carried.keys.size(); ++i) {
    fn(absl::StrCat("carry.keys.", i), heads, carried.keys[i]);
    fn(absl::StrCat("carry.values.", i), heads, carried.values[i]);
  }
}

absl::Status SaveState(const std::string& path, const DeviceModel& model, DeviceStep& step, size_t state,
                       const Streams& streams, const RunState& run) {
  absl::btree_map<std::string, TensorView> views;
  Kept kept;
  for (size_t p = 0; p < model.layout.params.size(); ++p) {
    const ParamLayout& param = model.layout.params[p];
    std::vector<float> m(static_cast<size_t>(param.size())), v(m.size());
    step.GetParam(p, nullptr, m.data(), v.data());
    views["m." + param.name] = {DType::kF32, ParamShape(param), kept.Add(std::move(m))};
    views["v." + param.name] = {DType::kF32, ParamShape(param), kept.Add(std::move(v))};
  }
  const CarriedState carried = step.GetState(state);
  ForCarried(model, carried,
             [&](const std::string& name, std::vector<int64_t> shape, const std::vector<float>& x) {
               views[name] = {DType::kF32, std::move(shape), x.data()};
             });
  ForExpertLayers(model, [&](size_t l, const ExpertTables& t) {
    if (!t.loads.empty())
      views[absl::StrCat("loads.", l)] = {
          DType::kF32, {static_cast<int64_t>(t.loads.size())}, t.loads.data()};
  });
  const std::vector<int64_t> valid(carried.valid.begin(), carried.valid.end());
  views["cursors"] = {DType::kI64, {model.batch}, streams.cursors().data()};
  views["carry.valid"] = {DType::kI64, {model.batch}, valid.data()};
  return WriteSafetensors(path, views,
                          {{"step", absl::StrCat(run.step)},
                           {"seconds", absl::StrCat(run.seconds)},
                           {"position", absl::StrCat(carried.position)},
                           {"data_xxh3", run.record.data_hash},
                           {"tokenizer_xxh3", run.record.tokenizer_hash},
                           {"settings", run.record.settings.dump()}});
}

absl::StatusOr<std::vector<int64_t>> Integers(const SafetensorsFile& file, const std::string& name,
                                              int64_t count) {
  const auto it = file.tensors().find(name);
  if (it == file.tensors().end() || it->second.dtype != DType::kI64 || it->second.count() != count) {
    return absl::InvalidArgumentError(absl::StrCat("train.safetensors: no fitting '", name,
                                                   "'; resume with the --batch the run was started with"));
  }
  const auto* data = static_cast<const int64_t*>(it->second.data);
  return std::vector<int64_t>(data, data + count);
}

absl::Status LoadState(const std::string& path, DeviceModel& model, DeviceStep& step, size_t state,
                       Streams& streams) {
  const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  for (size_t p = 0; p < model.layout.params.size(); ++p) {
    const ParamLayout& param = model.layout.params[p];
    const auto m = file->F32("m." + param.name, ParamShape(param)),
               v = file->F32("v." + param.name, ParamShape(param));
    if (!m.ok()) return m.status();
    if (!v.ok()) return v.status();
    step.SetParam(p, nullptr, *m, *v);
  }
  CarriedState carried = step.GetState(state);
  absl::Status failed;
  ForCarried(model, carried,
             [&](const std::string& name, const std::vector<int64_t>& shape, std::vector<float>& x) {
               const auto data = file->F32(name, shape);
               if (data.ok()) {
                 std::copy_n(*data, x.size(), x.begin());
               } else {
                 failed.Update(data.status());
               }
             });
  ForExpertLayers(model, [&](size_t l, ExpertTables& t) {
    if (t.loads.empty()) return;
    const auto data = file->F32(absl::StrCat("loads.", l), {static_cast<int64_t>(t.loads.size())});
    if (data.ok()) {
      std::copy_n(*data, t.loads.size(), t.loads.begin());
    } else {
      failed.Update(data.status());
    }
  });
  if (!failed.ok()) return failed;
  const auto cursors = Integers(*file, "cursors", model.batch),
             valid = Integers(*file, "carry.valid", model.batch);
  if (!cursors.ok()) return cursors.status();
  if (!valid.ok()) return valid.status();
  for (size_t i = 0; i < valid->size(); ++i) {
    const int64_t at = (*cursors)[i], remembered = (*valid)[i];
    if (at < 0 || at >= streams.size() || remembered < 0 || remembered > model.memory) {
      return absl::DataLossError(absl::StrCat(path, ": row ", i, " reads from ", at, " of ", streams.size(),
                                              " tokens and remembers ", remembered, " of ", model.memory));
    }
    carried.valid[i] = static_cast<int32_t>(remembered);
  }
  streams.set_cursors(*cursors);
  const auto position = file->metadata().find("position");
  if (position == file->metadata().end() || !absl::SimpleAtoi(position->second, &carried.position))
    return absl::InvalidArgumentError(absl::StrCat(path, ": position missing"));
  step.SetState(state, carried);
  return absl::OkStatus();
}

absl::Status LoadWeights(const std::string& path, DeviceModel& model, DeviceStep& step) {
  const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  std::vector<std::vector<float>> params(model.layout.params.size());
  for (size_t p = 0; p < params.size(); ++p)
    params[p].resize(static_cast<size_t>(model.layout.params[p].size()));
  for (const Slice& s : Slices(model)) {
    const auto data = file->F32(s.name, s.shape);
    if (!data.ok()) return data.status();
    const ParamLayout& param = model.layout.params[s.param];
    for (int64_t g = 0; g < param.groups; ++g) {
      std::copy_n(*data + g * s.rows * param.cols, s.rows * param.cols,
                  params[s.param].begin() + (g * param.rows + s.first) * param.cols);
    }
  }
  for (size_t p = 0; p < params.size(); ++p) step.SetParam(p, params[p].data(), nullptr, nullptr);
  absl::Status failed;
  ForExpertLayers(model, [&](size_t l, ExpertTables& t) {
    const std::string n = absl::StrCat("layers.", l, ".");
    if (!t.bias.empty()) {
      const auto data = file->F32(n + "route_bias", {model.config.num_experts()});
      data.ok() ? void(std::copy_n(*data, t.bias.size(), t.bias.begin())) : failed.Update(data.status());
    }
    if (!t.members.empty()) {
      const auto data = file->U8(n + "members", {static_cast<int64_t>(t.members.size())});
      data.ok() ? void(std::copy_n(*data, t.members.size(), t.members.begin()))
                : failed.Update(data.status());
      if (*std::max_element(t.members.begin(), t.members.end()) >= model.config.experts_per_region())
        failed.Update(absl::DataLossError(absl::StrCat(path, ": '", n, "members' is damaged")));
    }
  });
  return failed;
}

}  // namespace

absl::Status SaveDeviceCheckpoint(const std::string& run, const DeviceModel& model, DeviceStep& step,
                                  size_t state, const Tokenizer& tokenizer, const Streams& streams,
                                  const RunState& run_state) {
  const absl::StatusOr<std::string> folder = BeginCheckpoint(run);
  if (!folder.ok()) return folder.status();
  const auto in = [&](const char* name) { return (fs::path(*folder) / name).string(); };
  absl::Status written = ReplaceFile(in("config.json"), ToJson(model.config));
  written.Update(tokenizer.Save(in("tokenizer.omni")));
  if (written.ok()) written = SaveWeights(in("model.safetensors"), model, step);
  if (written.ok()) written = SaveState(in("train.safetensors"), model, step, state, streams, run_state);
  if (!written.ok()) {
    DropCheckpoint(run);
    return written;
  }
  return CommitCheckpoint(run);
}

absl::Status LoadDeviceCheckpoint(const std::string& run, DeviceModel& model, DeviceStep& step, size_t state,
                                  Streams& streams) {
  const fs::path folder = fs::path(run) / "checkpoint";
  if (absl::Status s = LoadWeights((folder / "model.safetensors").string(), model, step); !s.ok()) return s;
  return LoadState((folder / "train.safetensors").string(), model, step, state, streams);
}

}  // namespace omni::train
