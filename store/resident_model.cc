#include "store/resident_model.h"

#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include <absl/strings/str_cat.h>

namespace omni {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxManifestBytes = int64_t{64} << 20;
constexpr int64_t kMaxTokenizerBytes = int64_t{1} << 30;
constexpr char kCure[] = "; the file is damaged: copy it again or repack";

// Whether `dir` looks like a packed model at all, before anything in it is trusted.
absl::Status CheckKind(const std::string& dir) {
  std::error_code error;
  const fs::file_status status = fs::status(dir, error);
  if (status.type() == fs::file_type::not_found) {
    return absl::NotFoundError(absl::StrCat(dir, ": no such directory; give the path of a packed model"));
  }
  if (error) return SystemError(dir, "open", error.value());
  if (status.type() != fs::file_type::directory) {
    return absl::InvalidArgumentError(
        absl::StrCat(dir, ": not a directory; give the path of a packed model"));
  }
  if (fs::exists(dir + "/" + kModelFile, error)) return absl::OkStatus();
  if (error) return SystemError(dir, "look into it", error.value());
  const bool empty = fs::is_empty(dir, error);
  if (error) return SystemError(dir, "list", error.value());
  if (empty)
    return absl::NotFoundError(absl::StrCat(dir, ": the directory is empty; pack a model into it first"));
  if (fs::exists(dir + "/model.safetensors", error)) {
    return absl::InvalidArgumentError(
        absl::StrCat(dir, ": a training checkpoint, not a packed model; pack it first"));
  }
  return absl::NotFoundError(absl::StrCat(dir, ": there is no ", kModelFile, "; this is not a packed model"));
}

// model.json may list these files and no others, packs numbered without a gap.
absl::Status CheckNames(const std::string& dir, const Manifest& manifest) {
  std::set<std::string> want = {kSharedFile, kTokenizerFile};
  for (uint32_t pack = 0; manifest.files.contains(PackName(pack)); ++pack) want.insert(PackName(pack));
  for (const std::string& name : want) {
    if (!manifest.files.contains(name)) {
      return absl::DataLossError(absl::StrCat(dir, "/", kModelFile, ": does not list ", name, kCure));
    }
  }
  for (const auto& [name, digest] : manifest.files) {
    if (want.count(name) == 0) {
      return absl::DataLossError(
          absl::StrCat(dir, "/", kModelFile, ": lists ", name, ", which is no part of a model", kCure));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ResidentModel>> ResidentModel::Load(const std::string& path) {
  std::string dir = path;
  while (dir.size() > 1 && dir.back() == '/') dir.pop_back();
  if (absl::Status s = CheckKind(dir); !s.ok()) return s;
  const std::string manifest_path = dir + "/" + kModelFile;
  absl::StatusOr<std::string> text = ReadText(manifest_path, kMaxManifestBytes);
  if (!text.ok()) return text.status();
  absl::StatusOr<Manifest> manifest = Manifest::Parse(manifest_path, *text);
  if (!manifest.ok()) return manifest.status();
  std::unique_ptr<ResidentModel> model(new ResidentModel(dir, *std::move(manifest)));
  model->manifest_bytes_ = static_cast<int64_t>(text->size());
  for (auto step : {&ResidentModel::CheckFiles, &ResidentModel::LoadShared, &ResidentModel::LoadTokenizer,
                    &ResidentModel::LoadExperts}) {
    if (absl::Status s = (model.get()->*step)(); !s.ok()) return s;
  }
  return model;
}

absl::Status ResidentModel::CheckFiles() {
  if (absl::Status s = CheckNames(dir_, manifest_); !s.ok()) return s;
  const std::string deltas_path = dir_ + "/" + kDeltasFile;
  absl::StatusOr<std::string> text = ReadText(deltas_path, kMaxManifestBytes);
  if (!text.ok()) return text.status();
  manifest_bytes_ += static_cast<int64_t>(text->size());
  absl::StatusOr<DeltaManifest> deltas = DeltaManifest::Parse(deltas_path, *text);
  if (!deltas.ok()) return deltas.status();
  deltas_ = *std::move(deltas);
  if (deltas_.delta_digest != manifest_.delta_digest) {
    return absl::DataLossError(absl::StrCat(dir_, "/", kDeltasFolder, ": the database of another model; ",
                                            "copy the whole model directory again or repack"));
  }
  absl::StatusOr<std::vector<std::string>> names = ListFiles(dir_);
  if (!names.ok()) return names.status();
  const std::set<std::string> found(names->begin(), names->end());
  for (const FileTable* table : {&manifest_.files, &deltas_.files}) {
    for (const auto& [name, digest] : *table) {
      if (found.count(name) > 0) continue;
      return absl::NotFoundError(absl::StrCat(
          dir_, "/", name, ": the file is missing; copy the whole model directory again or repack"));
    }
  }
  const std::string empty_packs = absl::StrCat(kPacksFolder, "/");
  for (const std::string& name : found) {
    if (name == kModelFile || name == kDeltasFile || name == empty_packs || manifest_.files.contains(name) ||
        deltas_.files.contains(name)) {
      continue;
    }
    return absl::InvalidArgumentError(
        absl::StrCat(dir_, "/", name, ": no part of the model; move it elsewhere"));
  }
  // RocksDB is shown only bytes that are known to be the packer's.
  for (const auto& [name, want] : deltas_.files) {
    const std::string path = dir_ + "/" + name;
    absl::StatusOr<FileDigest> digest = DigestFile(path);
    if (!digest.ok()) return digest.status();
    if (digest->bytes != want.bytes || digest->hash != want.hash) {
      return absl::DataLossError(absl::StrCat(path, ": fails its checksum", kCure));
    }
  }
  return absl::OkStatus();
}

absl::Status ResidentModel::LoadShared() {
  const std::string path = dir_ + "/" + kSharedFile;
  const FileDigest& want = manifest_.files.at(kSharedFile);
  if (want.bytes != layout_.file_bytes) {
    return absl::DataLossError(absl::StrCat(dir_, "/", kModelFile, ": ", kSharedFile, " is listed with ",
                                            want.bytes, " bytes, the config makes ", layout_.file_bytes,
                                            kCure));
  }
  absl::StatusOr<AlignedBuffer> bytes = ReadAligned(path, want.bytes);
  if (!bytes.ok()) return bytes.status();
  shared_ = *std::move(bytes);
  if (absl::Status s = layout_.Verify(path, shared_.data()); !s.ok()) return s;
  if (ContentHash(shared_.data(), static_cast<size_t>(shared_.size())) != want.hash) {
    return absl::DataLossError(absl::StrCat(path, ": fails its checksum", kCure));
  }
  absl::StatusOr<ModelWeights> weights = BindShared(manifest_.config, layout_, path, shared_.data());
  if (!weights.ok()) return weights.status();
  weights_ = *std::move(weights);
  return absl::OkStatus();
}

absl::Status ResidentModel::LoadTokenizer() {
  const std::string path = dir_ + "/" + kTokenizerFile;
  absl::StatusOr<std::string> bytes = ReadText(path, kMaxTokenizerBytes);
  if (!bytes.ok()) return bytes.status();
  if (ContentHash(*bytes) != manifest_.files.at(kTokenizerFile).hash) {
    return absl::DataLossError(absl::StrCat(path, ": fails its checksum", kCure));
  }
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Parse(*bytes);
  if (!tokenizer.ok()) {
    return absl::Status(tokenizer.status().code(), absl::StrCat(path, ": ", tokenizer.status().message()));
  }
  if (tokenizer->vocab() > manifest_.config.vocab) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", tokenizer->vocab(), " tokens, the model has ",
                                                   manifest_.config.vocab, "; repack the model"));
  }
  tokenizer_bytes_ = *std::move(bytes);
  tokenizer_ = *std::move(tokenizer);
  return absl::OkStatus();
}

absl::Status ResidentModel::LoadExperts() {
  auto experts = std::make_shared<ExpertStore>(manifest_.config);
  if (absl::Status s = experts->Load(dir_, manifest_); !s.ok()) return s;
  experts_ = std::move(experts);
  return absl::OkStatus();
}

absl::StatusOr<ExpertTiles> ResidentModel::Acquire(LayerId layer, ExpertId expert) {
  const uint8_t* const* tiles = experts_->Tiles(layer, expert);
  if (tiles == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(dir_, ": there is no expert ", expert.value, " in layer ",
                                                   layer.value, " (", manifest_.config.num_experts(),
                                                   " experts, ", manifest_.config.layers, " layers)"));
  }
  return ExpertTiles{{tiles, static_cast<size_t>(experts_->tiles_per_expert())}, experts_};
}

std::string_view ResidentModel::SectionBytes(const SharedSection& section) const {
  return {reinterpret_cast<const char*>(shared_.data()) + section.offset, static_cast<size_t>(section.bytes)};
}

}  // namespace omni
