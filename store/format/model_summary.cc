#include "store/format/model_summary.h"

#include <utility>

#include <absl/strings/str_cat.h>

#include "store/format/delta_db.h"
#include "store/format/table_reader.h"
#include "store/format/tile_contents.h"

namespace omni {
namespace {

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

absl::StatusOr<ModelSummary> SummarizeModel(const std::string& path) {
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

}  // namespace omni
