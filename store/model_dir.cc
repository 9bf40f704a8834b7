#include "store/model_dir.h"

#include <utility>

#include "store/pack_writer.h"
#include "store/resident_model.h"

namespace omni {
namespace {

// A packed model as a source of another: its bytes as they are.
class ResidentSource : public PackSource {
 public:
  explicit ResidentSource(std::unique_ptr<ResidentModel> model) : model_(std::move(model)) {}
  const ModelConfig& config() const override { return model_->weights().config; }
  std::string TokenizerBytes() const override { return model_->tokenizer_bytes(); }
  absl::StatusOr<std::string> Section(const SharedSection& section) override {
    return std::string(model_->SectionBytes(section));
  }
  absl::StatusOr<const uint8_t*> Tile(LayerId layer, ExpertId expert, int64_t tile) override {
    absl::StatusOr<ExpertTiles> tiles = model_->Acquire(layer, expert);
    if (!tiles.ok()) return tiles.status();
    return tiles->tiles[static_cast<size_t>(tile)];
  }

 private:
  std::unique_ptr<ResidentModel> model_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelDir>> ModelDir::Open(const std::string& path) {
  absl::StatusOr<std::unique_ptr<ResidentModel>> model = ResidentModel::Load(path);
  if (!model.ok()) return model.status();
  return std::unique_ptr<ModelDir>(*std::move(model));
}

absl::Status PackModel(const std::string& checkpoint, const std::string& dir, const PackOptions& options) {
  absl::StatusOr<std::unique_ptr<PackSource>> source = OpenCheckpointSource(checkpoint);
  if (!source.ok()) return source.status();
  return WriteModel(**source, dir, options);
}

absl::Status RepackModel(const std::string& dir, const std::string& out, const PackOptions& options) {
  absl::StatusOr<std::unique_ptr<ResidentModel>> model = ResidentModel::Load(dir);
  if (!model.ok()) return model.status();
  ResidentSource source(*std::move(model));
  return WriteModel(source, out, options);
}

}  // namespace omni
