#include "store/format/shared_weights.h"

#include <utility>

#include <absl/strings/str_cat.h>

namespace omni {

absl::StatusOr<SharedWeights> SharedWeights::Load(const ModelFiles& files) {
  SharedWeights shared;
  if (absl::Status s = shared.LoadWeights(files); !s.ok()) return s;
  absl::StatusOr<Tokenizer> tokenizer = ReadTokenizer(files, &shared.tokenizer_bytes_);
  if (!tokenizer.ok()) return tokenizer.status();
  shared.tokenizer_ = *std::move(tokenizer);
  return shared;
}

absl::Status SharedWeights::LoadWeights(const ModelFiles& files) {
  SharedLayout layout(files.manifest.config);
  const std::string path = files.PathOf(kSharedFile);
  const FileDigest& want = files.manifest.files.at(kSharedFile);
  if (want.bytes != layout.file_bytes) {
    return absl::DataLossError(absl::StrCat(files.PathOf(kModelFile), ": ", kSharedFile, " is listed with ",
                                            want.bytes, " bytes, the config makes ", layout.file_bytes,
                                            kDamagedCure));
  }
  absl::StatusOr<AlignedBuffer> bytes = ReadAligned(path, want.bytes);
  if (!bytes.ok()) return bytes.status();
  bytes_ = *std::move(bytes);
  if (absl::Status s = layout.Verify(path, bytes_.data()); !s.ok()) return s;
  if (ContentHash(bytes_.data(), static_cast<size_t>(bytes_.size())) != want.hash) {
    return absl::DataLossError(absl::StrCat(path, ": fails its checksum", kDamagedCure));
  }
  absl::StatusOr<ModelWeights> weights = BindShared(files.manifest.config, layout, path, bytes_.data());
  if (!weights.ok()) return weights.status();
  weights_ = *std::move(weights);
  return absl::OkStatus();
}

std::string_view SharedWeights::SectionBytes(const SharedSection& section) const {
  return {reinterpret_cast<const char*>(bytes_.data()) + section.offset, static_cast<size_t>(section.bytes)};
}

}  // namespace omni
