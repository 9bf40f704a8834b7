#include "store/verify/verify_tiles.h"

#include <algorithm>
#include <span>
#include <tuple>
#include <utility>

#include <absl/strings/str_cat.h>

#include "store/format/tile_delta.h"

namespace omni {
namespace {

constexpr int64_t kDeltaBudget = int64_t{64} << 20;

}  // namespace

// Notes what the tables say of each tile of the packs.
class TileCheck::Tables : public TableVisitor {
 public:
  Tables(TileCheck& check, Defects* defects)
      : check_(check),
        config_(check.files_.manifest.config),
        path_(check.files_.PathOf(kDeltasFolder)),
        defects_(defects),
        keyframes_(static_cast<size_t>(check.numbers_.tables())) {}

  absl::Status Inherit(int64_t, int64_t) override { return absl::OkStatus(); }

  absl::Status Stored(int64_t table, int64_t tile, const TileRef& ref) override {
    if (ref.pack < check_.packs_.size() && !check_.packs_[ref.pack].header_error.ok())
      return absl::OkStatus();
    absl::StatusOr<int64_t> found = FindTile(check_.files_, check_.headers_, ref);
    if (!found.ok()) return Fail(table, tile, found.status().message());
    if (static_cast<size_t>(*found) >= check_.packs_[ref.pack].tiles.size())
      return absl::OkStatus();  // cut off
    Tile& stored = check_.packs_[ref.pack].tiles[static_cast<size_t>(*found)];
    if (stored.table == kNone) {
      stored = {ref.hash, ref.checksum, static_cast<uint32_t>(table), static_cast<uint32_t>(tile)};
    } else if (stored.hash != ref.hash || stored.checksum != ref.checksum) {
      return Fail(table, tile, "has another checksum than elsewhere");
    }
    if (config_.IndexInRegion(check_.numbers_.Expert(table)) == 0) {
      std::vector<Place>& places = keyframes_[static_cast<size_t>(table)];
      places.resize(static_cast<size_t>(check_.numbers_.tiles()));
      places[static_cast<size_t>(tile)] = {ref.pack, static_cast<uint32_t>(*found)};
    }
    return absl::OkStatus();
  }

  absl::Status Scattered(int64_t table, int64_t keyframe, const TileChange& change) override {
    const std::vector<Place>& places = keyframes_[static_cast<size_t>(keyframe)];
    const Place base = places.empty() ? Place() : places[change.tile];
    if (base.pack == kNone) return absl::OkStatus();  // reported with the keyframe, or its pack's header
    check_.packs_[base.pack].scattered.push_back(
        {base.tile, static_cast<uint32_t>(table), change.tile, static_cast<uint32_t>(change.delta.size())});
    return absl::OkStatus();
  }

  absl::Status Bad(const absl::Status& error) override {
    AddDefect(error, defects_);
    return absl::OkStatus();
  }

 private:
  absl::Status Fail(int64_t table, int64_t tile, absl::string_view what) {
    return Bad(absl::DataLossError(
        absl::StrCat(path_, ": ", check_.numbers_.Name(table, tile), " ", what, kDamagedCure)));
  }

  TileCheck& check_;
  const ModelConfig& config_;
  std::string path_;
  Defects* defects_;
  std::vector<std::vector<Place>> keyframes_;  // by table: where the keyframe's tiles lie
};

// The scattered deltas of one pack, in order of the tiles they change. Some are in memory at a time, fetched
// table by table.
class TileCheck::Deltas {
 public:
  Deltas(const TileCheck& check, const Pack& pack, Defects* defects)
      : check_(check), pack_(pack), defects_(defects) {}

  // The next delta if it changes tile `base` of the pack; null if there is none.
  struct Delta {
    uint32_t table = kNone;
    TileChange change;
  };
  const Delta* Next(uint32_t base) {
    while (at_ < pack_.scattered.size() && pack_.scattered[at_].base == base) {
      if (at_ == end_) Fetch();
      const Delta& delta = fetched_[at_++ - begin_];
      if (delta.table != kNone) return &delta;
    }
    return nullptr;
  }
  void Skip(uint32_t base) {
    while (at_ < pack_.scattered.size() && pack_.scattered[at_].base == base) {
      if (at_++ == end_) begin_ = end_ = at_;
    }
  }

 private:
  void Fetch() {
    begin_ = end_ = at_;
    for (int64_t bytes = 0; end_ < pack_.scattered.size() && bytes < kDeltaBudget; ++end_)
      bytes += pack_.scattered[end_].bytes;
    fetched_.assign(end_ - begin_, {});
    std::vector<size_t> order(end_ - begin_);
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    const auto use = [&](size_t i) -> const TileCheck::Scattered& { return pack_.scattered[begin_ + i]; };
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return use(a).table < use(b).table; });
    for (size_t i = 0; i < order.size();) {
      const uint32_t table = use(order[i]).table;
      size_t last = i;
      while (last < order.size() && use(order[last]).table == table) ++last;
      FetchTable(table, {&order[i], last - i});
      i = last;
    }
  }

  void FetchTable(uint32_t table, std::span<const size_t> wanted) {
    const LayerId layer = check_.numbers_.Layer(table);
    const ExpertId expert = check_.numbers_.Expert(table);
    absl::StatusOr<std::string> value = check_.db_->Get(TableKey(layer, expert));
    absl::StatusOr<TileTable> decoded =
        value.ok() ? DecodeTable(*value, check_.numbers_.tiles()) : absl::StatusOr<TileTable>(value.status());
    if (!decoded.ok()) return AddDefect(decoded.status(), defects_);
    for (const size_t i : wanted) {
      const uint32_t tile = pack_.scattered[begin_ + i].tile;
      for (TileChange& change : decoded->changes) {
        if (change.tile == tile) fetched_[i] = {table, std::move(change)};
      }
    }
  }

  const TileCheck& check_;
  const Pack& pack_;
  Defects* defects_;
  size_t at_ = 0, begin_ = 0, end_ = 0;  // fetched_ holds begin_ to end_ - 1
  std::vector<Delta> fetched_;
};

TileCheck::TileCheck(const ModelFiles& files)
    : files_(files), layout_(files.manifest.config.d), numbers_(files.manifest.config) {
  for (uint32_t number = 0; files.manifest.files.contains(PackName(number)); ++number) {
    Pack pack;
    pack.name = PackName(number);
    absl::StatusOr<PackHeader> header = ReadPackHeader(files, pack.name);
    pack.header_error = header.status();
    if (header.ok()) {
      pack.header = *header;
      const int64_t bytes = FileSize(files.PathOf(pack.name)).value_or(0);
      const int64_t there =
          std::max<int64_t>(0, bytes - header->first_offset + header->stride - 1) / header->stride;
      pack.tiles.resize(static_cast<size_t>(std::min(header->count, there)));
    }
    headers_.push_back(pack.header);
    packs_.push_back(std::move(pack));
  }
}

void TileCheck::ReadTables(Defects* defects) {
  const size_t before = defects->lines.size();
  AddDefect(CheckTableCount(files_, numbers_), defects);
  if (defects->lines.size() > before) return;
  absl::StatusOr<DeltaDb> db = DeltaDb::Open(files_.PathOf(kDeltasFolder));
  if (!db.ok()) return AddDefect(db.status(), defects);
  db_.emplace(*std::move(db));
  Tables tables(*this, defects);
  AddDefect(omni::ReadTables(files_, *db_, numbers_, tables), defects);
  tables_whole_ = defects->lines.size() == before;
  for (Pack& pack : packs_) {
    std::sort(pack.scattered.begin(), pack.scattered.end(), [](const Scattered& a, const Scattered& b) {
      return std::tie(a.base, a.table) < std::tie(b.base, b.table);
    });
  }
}

void TileCheck::VerifyPack(size_t number, VerifyState* state, Defects* defects) const {
  const Pack& pack = packs_[number];
  AddDefect(pack.header_error, defects);
  FilePass pass(files_.PathOf(pack.name), files_.manifest.files.at(pack.name), state, defects);
  const int64_t payload = layout_.payload();
  if (!pass.Open(payload)) return;
  bool bad = !pack.header_error.ok();
  Deltas deltas(*this, pack, defects);
  size_t tile = 0;
  int64_t keep = 0;
  while (pass.Next(keep)) {
    for (; tile < pack.tiles.size(); ++tile) {
      const int64_t begin = pack.header.first_offset + static_cast<int64_t>(tile) * pack.header.stride;
      keep = std::max<int64_t>(0, pass.end() - begin);
      if (keep < payload) break;
      pass.HashTo(begin + payload);
      VerifyTile(pack, static_cast<uint32_t>(tile), pass.At(begin), &deltas, &bad, defects);
      ++state->tiles;
    }
    if (tile == pack.tiles.size()) keep = 0;
  }
  pass.Finish(bad);
}

void TileCheck::VerifyTile(const Pack& pack, uint32_t number, const uint8_t* bytes, Deltas* deltas, bool* bad,
                           Defects* defects) const {
  const std::string path = files_.PathOf(pack.name);
  const Tile& tile = pack.tiles[number];
  absl::Status status;
  if (tile.table == kNone) {
    if (tables_whole_) AddDefect(UnusedTile(path, number), defects);
    status = CheckTileCodes(layout_, bytes);
  } else {
    status = CheckTileContent(layout_, {tile.hash, 0, 0, tile.checksum}, bytes);
  }
  if (!status.ok()) {
    if (tile.table == kNone || absl::IsDataLoss(status)) *bad = true;
    const std::string name = tile.table == kNone ? absl::StrCat("tile number ", number, " of the file")
                                                 : numbers_.Name(tile.table, tile.tile);
    AddDefect(absl::DataLossError(absl::StrCat(path, ": ", name, " ", status.message())), defects);
    return deltas->Skip(number);
  }
  std::string made;
  while (const Deltas::Delta* delta = deltas->Next(number)) {
    made.assign(reinterpret_cast<const char*>(bytes), static_cast<size_t>(layout_.payload()));
    auto* result = reinterpret_cast<uint8_t*>(made.data());
    const std::string where =
        absl::StrCat(files_.PathOf(kDeltasFolder), ": ", numbers_.Name(delta->table, delta->change.tile));
    if (absl::Status s = ApplyTileDelta(layout_, delta->change.delta, result); !s.ok()) {
      AddDefect(absl::DataLossError(absl::StrCat(where, ": ", s.message(), kDamagedCure)), defects);
    } else if (s = CheckTileContent(layout_, delta->change.ref, result); !s.ok()) {
      AddDefect(absl::DataLossError(absl::StrCat(where, " ", s.message())), defects);
    }
  }
}

}  // namespace omni
