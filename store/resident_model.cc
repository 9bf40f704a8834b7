#include "store/resident_model.h"

#include <utility>

#include <absl/strings/str_cat.h>

#include "store/model_stats.h"

namespace omni {

absl::StatusOr<std::unique_ptr<ResidentModel>> ResidentModel::Load(const std::string& path) {
  absl::StatusOr<ModelFiles> files = ReadModelFiles(path);
  if (!files.ok()) return files.status();
  if (absl::Status s = CheckDeltaFiles(*files); !s.ok()) return s;
  std::unique_ptr<ResidentModel> model(new ResidentModel(*std::move(files)));
  for (auto step : {&ResidentModel::LoadShared, &ResidentModel::LoadTokenizer, &ResidentModel::LoadExperts}) {
    if (absl::Status s = (model.get()->*step)(); !s.ok()) return s;
  }
  return model;
}

absl::Status ResidentModel::LoadShared() {
  const std::string path = files_.PathOf(kSharedFile);
  const FileDigest& want = files_.manifest.files.at(kSharedFile);
  if (want.bytes != layout_.file_bytes) {
    return absl::DataLossError(absl::StrCat(files_.PathOf(kModelFile), ": ", kSharedFile, " is listed with ",
                                            want.bytes, " bytes, the config makes ", layout_.file_bytes,
                                            kDamagedCure));
  }
  absl::StatusOr<AlignedBuffer> bytes = ReadAligned(path, want.bytes);
  if (!bytes.ok()) return bytes.status();
  shared_ = *std::move(bytes);
  if (absl::Status s = layout_.Verify(path, shared_.data()); !s.ok()) return s;
  if (ContentHash(shared_.data(), static_cast<size_t>(shared_.size())) != want.hash) {
    return absl::DataLossError(absl::StrCat(path, ": fails its checksum", kDamagedCure));
  }
  absl::StatusOr<ModelWeights> weights = BindShared(files_.manifest.config, layout_, path, shared_.data());
  if (!weights.ok()) return weights.status();
  weights_ = *std::move(weights);
  return absl::OkStatus();
}

absl::Status ResidentModel::LoadTokenizer() {
  absl::StatusOr<Tokenizer> tokenizer = ReadTokenizer(files_, &tokenizer_bytes_);
  if (!tokenizer.ok()) return tokenizer.status();
  tokenizer_ = *std::move(tokenizer);
  return absl::OkStatus();
}

absl::Status ResidentModel::LoadExperts() {
  auto experts = std::make_shared<ExpertStore>(files_.manifest.config);
  if (absl::Status s = experts->Load(files_); !s.ok()) return s;
  experts_ = std::move(experts);
  return absl::OkStatus();
}

absl::StatusOr<ExpertTiles> ResidentModel::Acquire(LayerId layer, ExpertId expert) {
  const uint8_t* const* tiles = experts_->Tiles(layer, expert);
  if (tiles == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        files_.dir, ": there is no expert ", expert.value, " in layer ", layer.value, " (",
        files_.manifest.config.num_experts(), " experts, ", files_.manifest.config.layers, " layers)"));
  }
  return ExpertTiles{{tiles, static_cast<size_t>(experts_->tiles_per_expert())}, experts_};
}

ModelStats ResidentModel::Stats() const { return CountStats(files_, experts_->contents()); }

std::string_view ResidentModel::SectionBytes(const SharedSection& section) const {
  return {reinterpret_cast<const char*>(shared_.data()) + section.offset, static_cast<size_t>(section.bytes)};
}

}  // namespace omni
