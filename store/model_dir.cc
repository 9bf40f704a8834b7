#include "store/model_dir.h"

#include <utility>

#include <absl/strings/str_cat.h>

#include "store/model_stats.h"
#include "store/pack_writer.h"
#include "store/resident_model.h"
#include "store/streamed_model.h"

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

// Notes which tiles are equal, by the hashes that the tables state.
class ContentVisitor : public TableVisitor {
 public:
  ContentVisitor(const ModelFiles& files, const std::vector<PackHeader>& packs, TileContents& contents)
      : files_(files), packs_(packs), contents_(contents) {}

  absl::Status Inherit(int64_t table, int64_t keyframe) override {
    contents_.Copy(keyframe, table);
    return absl::OkStatus();
  }
  absl::Status Stored(int64_t table, int64_t tile, const TileRef& ref) override {
    if (absl::StatusOr<int64_t> found = FindTile(files_, packs_, ref); !found.ok()) {
      return absl::DataLossError(absl::StrCat(files_.PathOf(kDeltasFolder), ": ",
                                              contents_.numbers().Name(table, tile), " ",
                                              found.status().message(), kDamagedCure));
    }
    contents_.Set(table, tile, contents_.NumberOf(ref.hash));
    return absl::OkStatus();
  }
  absl::Status Scattered(int64_t table, int64_t, const TileChange& change) override {
    contents_.Set(table, change.tile, contents_.NumberOf(change.ref.hash));
    return absl::OkStatus();
  }

 private:
  const ModelFiles& files_;
  const std::vector<PackHeader>& packs_;
  TileContents& contents_;
};

}  // namespace

absl::StatusOr<ModelSummary> ModelDir::Summarize(const std::string& path) {
  absl::StatusOr<ModelFiles> files = ReadModelFiles(path);
  if (!files.ok()) return files.status();
  for (const char* name : {kSharedFile, kTokenizerFile}) {
    const int64_t want = files->manifest.files.at(name).bytes;
    absl::StatusOr<int64_t> bytes = FileSize(files->PathOf(name));
    if (!bytes.ok()) return bytes.status();
    if (*bytes != want) return WrongSize(files->PathOf(name), *bytes, want);
  }
  absl::StatusOr<std::vector<PackHeader>> packs = ReadPackHeaders(*files);
  if (!packs.ok()) return packs.status();
  if (absl::Status s = CheckDeltaFiles(*files); !s.ok()) return s;
  TileContents contents(files->manifest.config);
  if (absl::Status s = CheckTableCount(*files, contents.numbers()); !s.ok()) return s;
  contents.Allocate();
  absl::StatusOr<DeltaDb> db = DeltaDb::Open(files->PathOf(kDeltasFolder));
  if (!db.ok()) return db.status();
  ContentVisitor visitor(*files, *packs, contents);
  if (absl::Status s = ReadTables(*files, *db, contents.numbers(), visitor); !s.ok()) return s;
  return ModelSummary{files->manifest.config, files->manifest.ModelHash().Hex(),
                      CountStats(*files, contents)};
}

absl::StatusOr<std::unique_ptr<ModelDir>> ModelDir::Open(const std::string& path,
                                                         const OpenOptions& options) {
  if (options.streamed()) return StreamedModel::Open(path, options);
  absl::StatusOr<std::unique_ptr<ResidentModel>> model = ResidentModel::Load(path);
  if (!model.ok()) return model.status();
  return std::unique_ptr<ModelDir>(*std::move(model));
}

absl::StatusOr<int64_t> ModelDir::ResidentBytes(const std::string& path) {
  ModelFiles files;
  absl::StatusOr<std::string> dir = ModelDirectory(path);
  if (!dir.ok()) return dir.status();
  files.dir = *std::move(dir);
  if (absl::Status s = ReadManifest(&files); !s.ok()) return s;
  int64_t bytes = files.manifest.counts.inline_tiles * TileLayout(files.manifest.config.d).payload();
  for (const auto& [name, digest] : files.manifest.files) bytes += digest.bytes;
  return bytes;
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
