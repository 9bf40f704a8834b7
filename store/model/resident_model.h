// ModelDir's implementation: the whole model in memory.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "store/format/model_files.h"
#include "store/format/shared_weights.h"
#include "store/model/expert_store.h"
#include "store/model/model_dir.h"

namespace omni {

class ResidentModel : public ModelDir {
 public:
  static absl::StatusOr<std::unique_ptr<ResidentModel>> Load(const std::string& dir);

  const ModelWeights& weights() const override { return shared_.weights(); }
  const Tokenizer& tokenizer() const override { return shared_.tokenizer(); }
  std::string model_hash() const override { return files_.manifest.ModelHash().Hex(); }
  ModelStats Stats() const override;
  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override;

  const std::string& tokenizer_bytes() const { return shared_.tokenizer_bytes(); }
  std::string_view SectionBytes(const SharedSection& section) const { return shared_.SectionBytes(section); }

 private:
  ResidentModel(ModelFiles files, SharedWeights shared, std::shared_ptr<const ExpertStore> experts)
      : files_(std::move(files)), shared_(std::move(shared)), experts_(std::move(experts)) {}

  ModelFiles files_;
  SharedWeights shared_;
  std::shared_ptr<const ExpertStore> experts_;
};

// "PATH: there is no expert E in layer L (...)"
absl::Status NoSuchExpert(const ModelFiles& files, LayerId layer, ExpertId expert);

}  // namespace omni
