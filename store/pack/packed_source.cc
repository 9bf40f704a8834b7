#include "store/pack/packed_source.h"

#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "store/file/random_reader.h"
#include "store/format/delta_db.h"
#include "store/format/shared_weights.h"
#include "store/format/tile_delta.h"
#include "store/format/tile_index.h"

namespace omni {
namespace {

class PackedSource : public PackSource {
 public:
  explicit PackedSource(ModelFiles files)
      : files_(std::move(files)), layout_(files_.manifest.config.d), tile_(payload()), base_(payload()) {}

  absl::Status Load();

  const ModelConfig& config() const override { return files_.manifest.config; }
  std::string TokenizerBytes() const override { return shared_->tokenizer_bytes(); }
  absl::StatusOr<std::string> Section(const SharedSection& section) override {
    return std::string(shared_->SectionBytes(section));
  }
  absl::StatusOr<const uint8_t*> Tile(LayerId layer, ExpertId expert, int64_t tile) override;
  bool EqualsKeyframe(LayerId layer, ExpertId expert, int64_t tile) const override;

 private:
  size_t payload() const { return static_cast<size_t>(layout_.payload()); }
  absl::Status Read(const TileRef& ref, std::vector<uint8_t>& to);
  absl::Status Make(const TileIndex::Tile& tile);

  ModelFiles files_;
  TileLayout layout_;
  std::vector<PackHeader> headers_;
  std::optional<SharedWeights> shared_;
  std::optional<DeltaDb> deltas_;
  std::unique_ptr<TileIndex> index_;
  std::vector<RandomReader> packs_;
  uint32_t at_ = TileIndex::kNone;  // whose bytes tile_ holds
  std::vector<uint8_t> tile_, base_;
};

absl::Status PackedSource::Load() {
  if (absl::Status s = CheckDeltaFiles(files_); !s.ok()) return s;
  absl::StatusOr<std::vector<PackHeader>> headers = ReadPackHeaders(files_);
  if (!headers.ok()) return headers.status();
  headers_ = *std::move(headers);
  absl::StatusOr<SharedWeights> shared = SharedWeights::Load(files_);
  if (!shared.ok()) return shared.status();
  shared_ = *std::move(shared);
  absl::StatusOr<DeltaDb> deltas = DeltaDb::Open(files_.PathOf(kDeltasFolder));
  if (!deltas.ok()) return deltas.status();
  deltas_.emplace(*std::move(deltas));
  absl::StatusOr<std::unique_ptr<TileIndex>> index = TileIndex::Read(files_, *deltas_, headers_);
  if (!index.ok()) return index.status();
  index_ = *std::move(index);
  for (size_t pack = 0; pack < headers_.size(); ++pack) {
    absl::StatusOr<RandomReader> reader =
        RandomReader::Open(files_.PathOf(PackName(static_cast<uint32_t>(pack))));
    if (!reader.ok()) return reader.status();
    packs_.push_back(*std::move(reader));
  }
  return absl::OkStatus();
}

absl::StatusOr<const uint8_t*> PackedSource::Tile(LayerId layer, ExpertId expert, int64_t tile) {
  const int64_t table = index_->numbers().Number(layer, expert);
  if (table < 0 || tile < 0 || tile >= index_->numbers().tiles()) {
    return absl::InvalidArgumentError(absl::StrCat(files_.dir, ": there is no tile ", tile, " of expert ",
                                                   expert.value, ", layer ", layer.value));
  }
  const uint32_t number = index_->Of(table)[tile];
  if (number == at_) return tile_.data();
  at_ = TileIndex::kNone;
  if (absl::Status s = Make(index_->tile(number)); !s.ok()) {
    return absl::Status(
        s.code(), absl::StrCat(files_.dir, ": ", index_->numbers().Name(table, tile), " ", s.message()));
  }
  at_ = number;
  return tile_.data();
}

bool PackedSource::EqualsKeyframe(LayerId layer, ExpertId expert, int64_t tile) const {
  const ModelConfig& c = config();
  const int64_t mine = index_->numbers().Number(layer, expert);
  const int64_t keyframe = index_->numbers().Number(layer, c.ExpertOf(c.RegionOf(expert), 0));
  return mine >= 0 && keyframe >= 0 && index_->Of(mine)[tile] == index_->Of(keyframe)[tile];
}

absl::Status PackedSource::Read(const TileRef& ref, std::vector<uint8_t>& to) {
  return packs_[ref.pack].ReadAt(static_cast<int64_t>(ref.offset), to.data(),
                                 static_cast<int64_t>(to.size()));
}

// Into tile_: a stored tile, or a stored one with its trits changed.
absl::Status PackedSource::Make(const TileIndex::Tile& tile) {
  if (tile.base == TileIndex::kNone) {
    if (absl::Status s = Read(tile.ref, tile_); !s.ok()) return s;
    return CheckTileContent(layout_, tile.ref, tile_.data());
  }
  const TileRef& base = index_->tile(tile.base).ref;
  if (absl::Status s = Read(base, tile_); !s.ok()) return s;
  if (absl::Status s = CheckTileContent(layout_, base, tile_.data()); !s.ok()) return s;
  const TableNumbers& numbers = index_->numbers();
  absl::StatusOr<std::string> value =
      deltas_->Get(TableKey(numbers.Layer(tile.table), numbers.Expert(tile.table)));
  if (!value.ok()) return value.status();
  absl::StatusOr<TileTable> table = DecodeTable(*value, numbers.tiles());
  if (!table.ok()) return table.status();
  for (const TileChange& change : table->changes) {
    if (change.tile != tile.number || !change.inline_delta) continue;
    if (absl::Status s = ApplyTileDelta(layout_, change.delta, tile_.data()); !s.ok()) return s;
    return CheckTileContent(layout_, tile.ref, tile_.data());
  }
  return absl::DataLossError("is not in its table any more");
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackSource>> OpenPackedSource(const std::string& dir) {
  absl::StatusOr<ModelFiles> files = ReadModelFiles(dir);
  if (!files.ok()) return files.status();
  auto source = std::make_unique<PackedSource>(*std::move(files));
  if (absl::Status s = source->Load(); !s.ok()) return s;
  return source;
}

}  // namespace omni
