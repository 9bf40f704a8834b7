// The formats around tiles: tables, their keys, pack headers and scattered deltas.
#include <cstring>

#include "store/file/bytes.h"
#include "store/format/tile_delta.h"
#include "store/format/tile_table.h"
#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 150000;

namespace {

constexpr int64_t kTiles = 6;

const TileLayout& Layout() {
  static const TileLayout layout(70);
  return layout;
}

std::string BaseTile() {
  const TileLayout& layout = Layout();
  std::string tile(static_cast<size_t>(layout.payload()), '\0');
  for (size_t i = 0; i < static_cast<size_t>(layout.gate_scale_offset()); ++i)
    tile[i] = static_cast<char>(i * 7 % 243);
  return tile;
}

const uint8_t* Raw(const std::string& s) { return reinterpret_cast<const uint8_t*>(s.data()); }
uint8_t* Raw(std::string& s) { return reinterpret_cast<uint8_t*>(s.data()); }

void CheckTable(std::string_view bytes) {
  LayerId layer;
  ExpertId expert;
  if (ParseTableKey(bytes.substr(0, 8), &layer, &expert)) {
    Require(TableKey(layer, expert) == bytes.substr(0, 8), "a key is written as it was read");
  }
  const absl::StatusOr<TileTable> table = DecodeTable(bytes, kTiles);
  if (!table.ok()) return RequireReadable(table.status());
  Require(EncodeTable(*table) == bytes, "a table is written as it was read");
}

void CheckHeader(std::string bytes) {
  bytes.resize(PackHeader::kBytes, '\0');
  for (const std::string& header : {bytes, WithChecksum(bytes)}) {
    const absl::StatusOr<PackHeader> parsed =
        PackHeader::Parse("packs/tiles-000.bin", Raw(header), Layout().payload());
    if (!parsed.ok()) {
      RequireReadable(parsed.status());
      continue;
    }
    Require(parsed->Encode() == header, "a header is written as it was read");
    Require(parsed->file_bytes() >= PackHeader::kBytes, "a header gives its file's size");
  }
}

void CheckDelta(std::string_view bytes) {
  const std::string base = BaseTile();
  std::string tile = base;
  if (const absl::Status s = ApplyTileDelta(Layout(), bytes, Raw(tile)); !s.ok()) return RequireReadable(s);
  for (int64_t i = 0; i < Layout().gate_scale_offset(); ++i) Require(Raw(tile)[i] < 243, "codes stay codes");
  const std::string coded = EncodeTileDelta(Layout(), Raw(base), Raw(tile));
  Require(coded.size() <= bytes.size(), "the coding is the smallest");
  std::string again = base;
  Require(ApplyTileDelta(Layout(), coded, Raw(again)).ok() && again == tile, "the coding gives the tile");
}

}  // namespace

std::vector<std::string> Seeds() {
  TileTable whole, changes;
  whole.whole = true;
  for (uint64_t n = 0; n < kTiles; ++n) whole.tiles.push_back({{n, n + 1}, 1, 64 * n, n * 1000003});
  const std::string base = BaseTile();
  std::string tile = base;
  for (size_t i = 0; i < 900; i += 37) tile[i] = static_cast<char>(i % 243);
  const float scale = 0.25f;
  std::memcpy(tile.data() + Layout().gate_scale_offset() + 8, &scale, sizeof scale);
  TileChange scattered;
  scattered.tile = 4, scattered.inline_delta = true;
  scattered.delta = EncodeTileDelta(Layout(), Raw(base), Raw(tile));
  changes.changes = {{1, false, whole.tiles[2], ""}, scattered};
  PackHeader header = PackHeader::For(Layout().payload(), 64);
  header.count = 12;
  return {EncodeTable(whole),
          EncodeTable(changes),
          header.Encode(),
          scattered.delta,
          EncodeTileDelta(Layout(), Raw(base), Raw(base)),
          TableKey(LayerId(70000), ExpertId(129))};
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni::fuzz;
  const std::string_view input = View(data, size);
  CheckTable(input);
  CheckHeader(std::string(input.substr(0, 64)));
  CheckDelta(input);
  return 0;
}
