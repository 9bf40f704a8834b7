#include "engine/train/checkpoint_io.h"

#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include "engine/base/replace_file.h"
#include "engine/model/checkpoint.h"
#include "engine/train/run_directory.h"

namespace omni::train {
namespace {

namespace fs = std::filesystem;
using torch::Tensor;

// Every tensor that a resumed run needs beside the weights, by name.
std::vector<std::pair<std::string, Tensor*>> Tensors(TrainModel& model, Carry& carry) {
  std::vector<std::pair<std::string, Tensor*>> out;
  for (Param* p : model.params()) {
    out.emplace_back(absl::StrCat("m.", p->name), &p->m);
    out.emplace_back(absl::StrCat("v.", p->name), &p->v);
  }
  for (size_t i = 0; i < carry.pdr.size(); ++i)
    out.emplace_back(absl::StrCat("carry.pdr.", i), &carry.pdr[i]);
  for (size_t i = 0; i < carry.slow.size(); ++i)
    out.emplace_back(absl::StrCat("carry.slow.", i), &carry.slow[i]);
  for (auto& [name, means] : model.means()) out.emplace_back(name, means);
  for (size_t i = 0; i < carry.keys.size(); ++i) {
    out.emplace_back(absl::StrCat("carry.keys.", i), &carry.keys[i]);
    out.emplace_back(absl::StrCat("carry.values.", i), &carry.values[i]);
  }
  return out;
}

absl::Status WriteState(const fs::path& path, TrainModel& model, const Streams& streams, const Carry& carry,
                        const RunState& state) {
  absl::btree_map<std::string, TensorView> views;
  std::vector<Tensor> keep;
  Carry copy = carry;
  for (const auto& [name, tensor] : Tensors(model, copy)) {
    keep.push_back(tensor->contiguous());
    views[name] = {DType::kF32, keep.back().sizes().vec(), keep.back().data_ptr()};
  }
  const auto count = static_cast<int64_t>(streams.cursors().size());
  views["cursors"] = {DType::kI64, {count}, streams.cursors().data()};
  views["carry.valid"] = {DType::kI64, {count}, carry.valid.data()};
  return WriteSafetensors(path.string(), views,
                          {{"step", absl::StrCat(state.step)},
                           {"seconds", absl::StrCat(state.seconds)},
                           {"position", absl::StrCat(carry.position)},
                           {"data_xxh3", state.record.data_hash},
                           {"tokenizer_xxh3", state.record.tokenizer_hash},
                           {"settings", state.record.settings.dump()}});
}

absl::Status WriteFiles(const fs::path& folder, TrainModel& model, const Tokenizer& tokenizer,
                        const Streams& streams, const Carry& carry, const RunState& state) {
  const auto in = [&](const char* name) { return (folder / name).string(); };
  if (absl::Status s = ReplaceFile(in("config.json"), ToJson(model.config())); !s.ok()) return s;
  if (absl::Status s = tokenizer.Save(in("tokenizer.omni")); !s.ok()) return s;
  if (absl::Status s = model.SaveWeights(in("model.safetensors")); !s.ok()) return s;
  if (state.shared_start) {
    absl::Status s = model.SaveStart(in("start.safetensors"), state.record.tokenizer_hash);
    if (!s.ok()) return s;
  }
  return WriteState(in("train.safetensors"), model, streams, carry, state);
}

}  // namespace

absl::Status SaveCheckpoint(const std::string& run, TrainModel& model, const Tokenizer& tokenizer,
                            const Streams& streams, const Carry& carry, const RunState& state) {
  const absl::StatusOr<std::string> folder = BeginCheckpoint(run);
  if (!folder.ok()) return folder.status();
  absl::Status written = WriteFiles(*folder, model, tokenizer, streams, carry, state);
  if (!written.ok()) {
    DropCheckpoint(run);
    return written;
  }
  return CommitCheckpoint(run);
}

absl::Status LoadCheckpoint(const std::string& run, TrainModel& model, Streams& streams, Carry& carry) {
  const fs::path path = fs::path(run) / "checkpoint" / "train.safetensors";
  const std::string weights = (path.parent_path() / "model.safetensors").string();
  if (absl::Status st = model.LoadWeights(weights); !st.ok()) return st;
  const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path.string());
  if (!file.ok()) return file.status();
  for (const auto& [name, tensor] : Tensors(model, carry)) {
    const auto data = file->F32(name, tensor->sizes().vec());
    if (!data.ok()) return data.status();
    tensor->copy_(torch::from_blob(const_cast<float*>(*data), tensor->sizes(), torch::kFloat32));
  }
  std::vector<int64_t> cursors(carry.valid.size());
  for (auto [name, values] : {std::pair{"cursors", &cursors}, std::pair{"carry.valid", &carry.valid}}) {
    const auto it = file->tensors().find(name);
    if (it == file->tensors().end() || it->second.dtype != DType::kI64 ||
        it->second.count() != static_cast<int64_t>(values->size())) {
      return absl::InvalidArgumentError(absl::StrCat(path.string(), ": no fitting '", name,
                                                     "'; resume with the --batch the run was started with"));
    }
    std::memcpy(values->data(), it->second.data, values->size() * 8);
  }
  for (int64_t at : cursors) {
    if (at < 0 || at >= streams.size()) {
      return absl::InvalidArgumentError(
          "the checkpoint's data position lies outside the corpus; resume with the same --data");
    }
  }
  const int64_t memory = carry.keys.empty() ? 0 : carry.keys[0].size(2);
  for (int64_t valid : carry.valid) {
    if (valid < 0 || valid > memory) {
      return absl::DataLossError(
          absl::StrCat(path.string(), ": 'carry.valid' is damaged: ", valid, " is outside 0 to ", memory));
    }
  }
  streams.set_cursors(cursors);
  const auto position = file->metadata().find("position");
  if (position == file->metadata().end() || !absl::SimpleAtoi(position->second, &carry.position)) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": position missing"));
  }
  return absl::OkStatus();
}

}  // namespace omni::train
