#include "engine/train/run_state.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include "engine/base/replace_file.h"
#include "engine/model/checkpoint.h"

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
  for (size_t i = 0; i < carry.keys.size(); ++i) {
    out.emplace_back(absl::StrCat("carry.keys.", i), &carry.keys[i]);
    out.emplace_back(absl::StrCat("carry.values.", i), &carry.values[i]);
  }
  return out;
}

void SyncDirectory(const fs::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

}  // namespace

absl::Status SaveCheckpoint(const std::string& run, TrainModel& model, const Tokenizer& tokenizer,
                            const Streams& streams, const Carry& carry, const RunState& state) {
  const fs::path root(run), temporary = root / "checkpoint.tmp", final = root / "checkpoint",
                            old = root / "checkpoint.old";
  std::error_code error;
  fs::remove_all(temporary, error);
  fs::create_directories(temporary, error);
  if (error)
    return absl::PermissionDeniedError(
        absl::StrCat(temporary.string(), ": cannot be made: ", error.message()));
  const auto fail = [&](absl::Status status) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    return status;
  };
  if (absl::Status st = ReplaceFile((temporary / "config.json").string(), ToJson(model.config())); !st.ok())
    return fail(st);
  if (absl::Status st = tokenizer.Save((temporary / "tokenizer.omni").string()); !st.ok()) return fail(st);
  if (absl::Status st = model.SaveWeights((temporary / "model.safetensors").string()); !st.ok())
    return fail(st);
  if (state.shared_start) {
    if (absl::Status st = model.SaveStart((temporary / "start.safetensors").string()); !st.ok())
      return fail(st);
  }
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
  const absl::Status st = WriteSafetensors((temporary / "train.safetensors").string(), views,
                                           {{"step", absl::StrCat(state.step)},
                                            {"seconds", absl::StrCat(state.seconds)},
                                            {"position", absl::StrCat(carry.position)}});
  if (!st.ok()) return fail(st);
  SyncDirectory(temporary);
  fs::remove_all(old, error);
  if (fs::exists(final)) fs::rename(final, old, error);
  fs::rename(temporary, final, error);
  if (error)
    return absl::DataLossError(absl::StrCat(final.string(), ": cannot be replaced: ", error.message()));
  SyncDirectory(root);
  fs::remove_all(old, error);
  return absl::OkStatus();
}

absl::Status LoadCheckpoint(const std::string& run, TrainModel& model, Streams& streams, Carry& carry,
                            RunState& state) {
  fs::path dir = fs::path(run) / "checkpoint";
  std::error_code error;
  // Killed between the two renames of a save: the one before is still whole.
  if (!fs::exists(dir) && fs::exists(fs::path(run) / "checkpoint.old")) {
    fs::rename(fs::path(run) / "checkpoint.old", dir, error);
  }
  if (absl::Status st = model.LoadWeights((dir / "model.safetensors").string()); !st.ok()) return st;
  auto file = SafetensorsFile::Open((dir / "train.safetensors").string());
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
      return absl::InvalidArgumentError(absl::StrCat(dir.string(), "/train.safetensors: no fitting '", name,
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
  streams.set_cursors(cursors);
  const auto& meta = file->metadata();
  const auto text = [&](const char* key) { return meta.contains(key) ? meta.at(key) : std::string(); };
  if (!absl::SimpleAtoi(text("step"), &state.step) || !absl::SimpleAtod(text("seconds"), &state.seconds) ||
      !absl::SimpleAtoi(text("position"), &carry.position)) {
    return absl::InvalidArgumentError(
        absl::StrCat(dir.string(), "/train.safetensors: step, seconds or position missing"));
  }
  return absl::OkStatus();
}

}  // namespace omni::train
