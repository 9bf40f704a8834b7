#include "store/cache/tile_checks.h"

#include <algorithm>

#include <absl/status/statusor.h>
#include <absl/strings/str_cat.h>

#include "engine/base/log.h"
#include "store/format/tile_delta.h"
#include "store/format/tile_table.h"

namespace omni {

TileChecks::TileChecks(const ModelFiles& files, const TileIndex& index, const DeltaDb& db, int64_t slots)
    : files_(files),
      index_(index),
      db_(db),
      layout_(files.manifest.config.d),
      checked_(static_cast<size_t>(slots)),
      sound_(static_cast<size_t>(index.tiles())) {}

absl::Status TileChecks::Complete(uint32_t content, uint32_t slot, uint8_t* bytes) {
  if (index_.tile(content).base == TileIndex::kNone) return absl::OkStatus();
  const absl::Status status = Derive(content, bytes);
  checked_[slot].store(status.ok(), std::memory_order_release);
  return status;
}

absl::Status TileChecks::Check(uint32_t content, uint32_t slot, const uint8_t* bytes) {
  const TileRef& ref = index_.tile(content).ref;
  const bool sound = sound_[content].load(std::memory_order_relaxed);
  const absl::Status status = sound ? CheckTileSum(layout_, ref, bytes) : CheckTileRead(layout_, ref, bytes);
  if (status.ok()) {
    sound_[content].store(true, std::memory_order_relaxed);
    checked_[slot].store(true, std::memory_order_release);
  }
  return status;
}

absl::Status TileChecks::Derive(uint32_t content, uint8_t* tile) const {
  const TileIndex::Tile& wanted = index_.tile(content);
  if (absl::Status s = CheckTileRead(layout_, index_.Stored(content).ref, tile); !s.ok()) return s;
  const TableNumbers& numbers = index_.numbers();
  absl::StatusOr<std::string> entry =
      db_.Get(TableKey(numbers.Layer(wanted.table), numbers.Expert(wanted.table)));
  if (!entry.ok()) return entry.status();
  absl::StatusOr<TileTable> table = DecodeTable(*entry, numbers.tiles());
  if (!table.ok()) return table.status();
  for (const TileChange& change : table->changes) {
    if (change.tile != wanted.number || !change.inline_delta) continue;
    if (absl::Status s = ApplyTileDelta(layout_, change.delta, tile); !s.ok()) return s;
    return CheckTileRead(layout_, wanted.ref, tile);
  }
  return absl::DataLossError(absl::StrCat("has no changes in ", files_.PathOf(kDeltasFolder), kDamagedCure));
}

void TileChecks::LogFailed(uint32_t content, const absl::Status& status) const {
  const TableNumbers& numbers = index_.numbers();
  int64_t table = 0, tile = 0;
  for (; table < numbers.tables(); ++table) {
    const uint32_t* const tiles = index_.Of(table);
    tile = std::find(tiles, tiles + numbers.tiles(), content) - tiles;
    if (tile < numbers.tiles()) break;
  }
  if (table == numbers.tables()) return;  // a tile that no expert has: nobody reads it
  LogWarning("tile_failed",
             "{path}: tile {tile} of expert {expert}, layer {layer} is not used, and read again when it is "
             "next asked for: {reason}",
             {{"path", files_.PathOf(PackName(index_.Stored(content).ref.pack))},
              {"tile", tile},
              {"expert", numbers.Expert(table).value},
              {"layer", numbers.Layer(table).value},
              {"reason", status.message()}});
}

std::string TileChecks::Located(int64_t table, int64_t tile, absl::string_view message) const {
  const uint32_t content = index_.Of(table)[tile];
  return absl::StrCat(files_.PathOf(PackName(index_.Stored(content).ref.pack)), ": ",
                      index_.numbers().Name(table, tile), " ", message);
}

}  // namespace omni
