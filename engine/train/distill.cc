#include "engine/train/distill.h"

#include <torch/torch.h>

#include <algorithm>
#include <vector>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

namespace omni::train {
namespace {

using torch::Tensor;

constexpr int64_t kTop = 8;
constexpr char kFormat[] = "omni-teacher-1";

std::string StrideName(Stride stride) { return stride == Stride::kFibonacci ? "fibonacci" : "plain"; }

absl::btree_map<std::string, std::string> Metadata(const SegmentsRead& read) {
  return {{"format", kFormat},
          {"data_xxh3", read.data_hash},
          {"tokenizer_xxh3", read.tokenizer_hash},
          {"batch", absl::StrCat(read.batch)},
          {"seq", absl::StrCat(read.tokens)},
          {"stride", StrideName(read.stride)}};
}

}  // namespace

absl::Status WriteTeacher(const std::string& path, TrainModel& model, Streams& streams, int64_t memory,
                          const SegmentsRead& read, int64_t first, int64_t count,
                          const std::function<bool()>& stop) {
  torch::NoGradGuard no_grad;
  const int64_t rows = read.batch * read.tokens;
  const int64_t top = std::min(kTop, model.config().vocab);
  Tensor ids = torch::empty({count * rows, top}, torch::kInt16),
         weights = torch::empty({count * rows, top}, torch::kHalf);
  Tensor inputs = torch::empty({rows}, torch::kInt32), targets = torch::empty_like(inputs);
  Carry carry = Carry::Make(model.config(), read.batch, memory);
  streams.Skip(first, read.tokens);
  for (int64_t segment = 0; segment < count; ++segment) {
    if (stop && stop()) return absl::CancelledError(absl::StrCat(path, ": interrupted; not written"));
    streams.Next(read.tokens, inputs.data_ptr<int32_t>(), targets.data_ptr<int32_t>());
    const auto [probability, id] = model.MostLikely(inputs, read.batch, carry, top);
    ids.narrow(0, segment * rows, rows).copy_(id);
    weights.narrow(0, segment * rows, rows).copy_(probability);
  }
  auto metadata = Metadata(read);
  metadata["first"] = absl::StrCat(first);
  return WriteSafetensors(path,
                          {{"ids", {DType::kU8, {count * rows, top, 2}, ids.data_ptr()}},
                           {"weights", {DType::kF16, {count * rows, top}, weights.data_ptr()}}},
                          {metadata.begin(), metadata.end()});
}

absl::StatusOr<Teacher> Teacher::Open(const std::string& path, const SegmentsRead& read) {
  absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  Teacher teacher(*std::move(file));
  const auto& metadata = teacher.file_.metadata();
  const auto text = [&](const std::string& key) {
    const auto it = metadata.find(key);
    return it == metadata.end() ? std::string() : it->second;
  };
  if (text("format") != kFormat) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": was not written by omni train --write-logits"));
  }
  for (const auto& [key, value] : Metadata(read)) {
    if (text(key) == value) continue;
    return absl::InvalidArgumentError(absl::StrCat(path, ": was written with ", key, " ", text(key), ", not ",
                                                   value, ": it is of other segments of text"));
  }
  const auto weights = teacher.file_.tensors().find("weights"), ids = teacher.file_.tensors().find("ids");
  teacher.rows_ = read.batch * read.tokens;
  const bool whole = weights != teacher.file_.tensors().end() && ids != teacher.file_.tensors().end() &&
                     weights->second.dtype == DType::kF16 && weights->second.shape.size() == 2 &&
                     weights->second.shape[0] % teacher.rows_ == 0 && ids->second.dtype == DType::kU8 &&
                     ids->second.count() == 2 * weights->second.count() &&
                     absl::SimpleAtoi(text("first"), &teacher.first_);
  if (!whole) return absl::DataLossError(absl::StrCat(path, ": damaged: ids, weights or first are missing"));
  teacher.count_ = weights->second.shape[0] / teacher.rows_;
  const auto* id = static_cast<const uint16_t*>(ids->second.data);
  const auto* weight = static_cast<const uint16_t*>(weights->second.data);
  constexpr uint16_t kOne = 0x3c00;  // in float16, above which lie larger, negative and infinite numbers
  for (int64_t i = 0; i < weights->second.count(); ++i) {
    if (id[i] < read.vocab && weight[i] <= kOne) continue;
    return absl::DataLossError(
        absl::StrCat(path, ": damaged: entry ", i, " is no token with its probability"));
  }
  return teacher;
}

SoftTargets Teacher::Of(int64_t segment, float share) const {
  if (segment < first_ || segment >= first_ + count_) return {};
  const TensorView &ids = file_.tensors().at("ids"), &weights = file_.tensors().at("weights");
  const int64_t top = weights.shape[1], at = (segment - first_) * rows_ * top;
  const auto of = [&](const void* data, torch::ScalarType type) {
    const auto* bytes = static_cast<const char*>(data) + 2 * at;
    return torch::from_blob(const_cast<char*>(bytes), {rows_, top}, type);
  };
  const Tensor id = of(ids.data, torch::kInt16).to(torch::kInt32).bitwise_and_(0xffff);
  return {id.contiguous(), of(weights.data, torch::kHalf).to(torch::kFloat32), share};
}

}  // namespace omni::train
