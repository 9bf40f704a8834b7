// ModelDir's implementation: the whole model in memory.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "store/expert_store.h"
#include "store/manifest.h"
#include "store/model_dir.h"
#include "store/shared_layout.h"

namespace omni {

class ResidentModel : public ModelDir {
 public:
  static absl::StatusOr<std::unique_ptr<ResidentModel>> Load(const std::string& dir);

  const ModelWeights& weights() const override { return weights_; }
  const Tokenizer& tokenizer() const override { return tokenizer_; }
  std::string model_hash() const override { return manifest_.ModelHash().Hex(); }
  ModelStats Stats() const override;
  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override;

  const std::string& tokenizer_bytes() const { return tokenizer_bytes_; }
  std::string_view SectionBytes(const SharedSection& section) const;

 private:
  ResidentModel(std::string dir, Manifest manifest)
      : dir_(std::move(dir)), manifest_(std::move(manifest)), layout_(manifest_.config) {}
  absl::Status CheckFiles();
  absl::Status LoadShared();
  absl::Status LoadTokenizer();
  absl::Status LoadExperts();

  std::string dir_;
  Manifest manifest_;
  DeltaManifest deltas_;
  int64_t manifest_bytes_ = 0;  // of model.json and deltas.json
  SharedLayout layout_;
  AlignedBuffer shared_;
  ModelWeights weights_;
  std::string tokenizer_bytes_;
  Tokenizer tokenizer_;
  std::shared_ptr<const ExpertStore> experts_;
};

}  // namespace omni
