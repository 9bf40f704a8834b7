#include "store/format/table_reader.h"

#include <absl/strings/str_cat.h>

namespace omni {
namespace {

class Walk {
 public:
  Walk(const ModelFiles& files, const TableNumbers& numbers, TableVisitor& visitor)
      : config_(files.manifest.config),
        path_(files.PathOf(kDeltasFolder)),
        numbers_(numbers),
        visitor_(visitor),
        seen_(static_cast<size_t>(numbers.tables())) {}

  absl::Status Table(std::string_view key, std::string_view value) {
    LayerId layer;
    ExpertId expert;
    const int64_t table = ParseTableKey(key, &layer, &expert) ? numbers_.Number(layer, expert) : -1;
    if (table < 0) {
      return visitor_.Bad(
          absl::DataLossError(absl::StrCat(path_, ": holds a key of ", key.size(),
                                           " bytes that is no expert of this model; it is another model's: ",
                                           "copy the whole model directory again or pack the model again")));
    }
    const auto bad = [&](absl::string_view what) {
      return visitor_.Bad(absl::DataLossError(
          absl::StrCat(path_, ": expert ", expert.value, ", layer ", layer.value, what, kDamagedCure)));
    };
    const int64_t keyframe = numbers_.Number(layer, config_.ExpertOf(config_.RegionOf(expert), 0));
    seen_[static_cast<size_t>(table)] = true;
    absl::StatusOr<TileTable> decoded = DecodeTable(value, numbers_.tiles());
    if (!decoded.ok()) return bad(absl::StrCat(": ", decoded.status().message()));
    if (decoded->whole) return Whole(table, *decoded);
    // Keys ascend and a keyframe is the lowest expert of its region, so that its tiles are known by now.
    if (keyframe == table || !seen_[static_cast<size_t>(keyframe)]) {
      return bad(" is a delta, but its keyframe is not there");
    }
    return Delta(table, keyframe, *decoded);
  }

 private:
  absl::Status Whole(int64_t table, const TileTable& decoded) {
    for (int64_t t = 0; t < numbers_.tiles(); ++t) {
      if (absl::Status s = visitor_.Stored(table, t, decoded.tiles[static_cast<size_t>(t)]); !s.ok())
        return s;
    }
    return absl::OkStatus();
  }

  absl::Status Delta(int64_t table, int64_t keyframe, const TileTable& decoded) {
    if (absl::Status s = visitor_.Inherit(table, keyframe); !s.ok()) return s;
    for (const TileChange& change : decoded.changes) {
      absl::Status s = change.inline_delta ? visitor_.Scattered(table, keyframe, change)
                                           : visitor_.Stored(table, change.tile, change.ref);
      if (!s.ok()) return s;
    }
    return absl::OkStatus();
  }

  const ModelConfig& config_;
  std::string path_;
  const TableNumbers& numbers_;
  TableVisitor& visitor_;
  std::vector<bool> seen_;  // by table
};

}  // namespace

TableNumbers::TableNumbers(const ModelConfig& config)
    : experts_(config.num_experts()), tiles_(TilesPerExpert(config)) {
  for (int64_t l = 0; l < config.layers; ++l) {
    place_of_.push_back(config.IsAttention(l) ? -1 : static_cast<int32_t>(layers_.size()));
    if (!config.IsAttention(l)) layers_.push_back(LayerId(static_cast<int32_t>(l)));
  }
}

int64_t TableNumbers::Number(LayerId layer, ExpertId expert) const {
  if (layer.value < 0 || layer.index() >= place_of_.size() || expert.value < 0 || expert.value >= experts_ ||
      place_of_[layer.index()] < 0) {
    return -1;
  }
  return place_of_[layer.index()] * experts_ + expert.value;
}

std::string TableNumbers::Name(int64_t table, int64_t tile) const {
  return absl::StrCat("tile ", tile, " of expert ", Expert(table).value, ", layer ", Layer(table).value);
}

absl::Status CheckTableCount(const ModelFiles& files, const TableNumbers& numbers) {
  if (files.manifest.delta_keys == numbers.tables()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(files.PathOf(kModelFile), ": ", files.manifest.delta_keys,
                                          " delta keys, the config makes ", numbers.tables(), kDamagedCure));
}

absl::Status ReadTables(const ModelFiles& files, const DeltaDb& db, const TableNumbers& numbers,
                        TableVisitor& visitor) {
  Walk walk(files, numbers, visitor);
  DeltaDigest digest;
  absl::Status read = db.ForEach([&](std::string_view key, std::string_view value) {
    digest.Add(key, value);
    return walk.Table(key, value);
  });
  if (!read.ok()) return read;
  if (digest.hash() == files.manifest.delta_digest && digest.keys() == files.manifest.delta_keys) {
    return absl::OkStatus();
  }
  return visitor.Bad(absl::DataLossError(
      absl::StrCat(files.PathOf(kDeltasFolder), ": the database is not the one model.json describes; ",
                   "copy the whole model directory again or pack the model again")));
}

absl::StatusOr<int64_t> FindTile(const ModelFiles& files, const std::vector<PackHeader>& packs,
                                 const TileRef& ref) {
  if (ref.pack >= packs.size()) {
    return absl::DataLossError(absl::StrCat("lies in pack ", ref.pack, ", which is not there"));
  }
  const int64_t tile = packs[ref.pack].TileAt(ref.offset);
  if (tile >= 0) return tile;
  return absl::DataLossError(absl::StrCat("lies at offset ", ref.offset, " of ",
                                          files.PathOf(PackName(ref.pack)), ", where no tile begins"));
}

absl::Status UnusedTile(const std::string& path, int64_t tile) {
  return absl::DataLossError(
      absl::StrCat(path, ": tile number ", tile, " of the file belongs to no expert; pack the model again"));
}

}  // namespace omni
