// ModelDir's implementation: the whole model in memory.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "store/expert_store.h"
#include "store/model_dir.h"
#include "store/model_files.h"
#include "store/shared_layout.h"

namespace omni {

class ResidentModel : public ModelDir {
 public:
  static absl::StatusOr<std::unique_ptr<ResidentModel>> Load(const std::string& dir);

  const ModelWeights& weights() const override { return weights_; }
  const Tokenizer& tokenizer() const override { return tokenizer_; }
  std::string model_hash() const override { return files_.manifest.ModelHash().Hex(); }
  ModelStats Stats() const override;
  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override;

  const std::string& tokenizer_bytes() const { return tokenizer_bytes_; }
  std::string_view SectionBytes(const SharedSection& section) const;

 private:
  explicit ResidentModel(ModelFiles files) : files_(std::move(files)), layout_(files_.manifest.config) {}
  absl::Status LoadShared();
  absl::Status LoadTokenizer();
  absl::Status LoadExperts();

  ModelFiles files_;
  SharedLayout layout_;
  AlignedBuffer shared_;
  ModelWeights weights_;
  std::string tokenizer_bytes_;
  Tokenizer tokenizer_;
  std::shared_ptr<const ExpertStore> experts_;
};

}  // namespace omni
