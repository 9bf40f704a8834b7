#include "store/model/region_experts.h"

#include <algorithm>
#include <latch>
#include <utility>

#include <absl/strings/str_cat.h>

#include "store/cache/tile_checks.h"

namespace omni {
namespace {

// A tile to read, and one of those that it is a part of.
struct Wanted {
  uint32_t content = 0;
  int64_t table = 0, tile = 0;
};

// In the order of the index, which is that of the pack files' first use.
std::vector<Wanted> WantedTiles(const TileIndex& index, const OpenedRegions& opened,
                                std::vector<uint32_t>* place_of) {
  const std::vector<bool> needed = opened.TilesOf(index);
  place_of->assign(static_cast<size_t>(index.tiles()), TileIndex::kNone);
  std::vector<Wanted> wanted;
  for (uint32_t content = 0; content < needed.size(); ++content) {
    if (!needed[content]) continue;
    (*place_of)[content] = static_cast<uint32_t>(wanted.size());
    wanted.push_back({content, 0, 0});
  }
  const TableNumbers& numbers = index.numbers();
  for (int64_t table = numbers.tables(); table-- > 0;) {
    if (!opened.Has(numbers.Expert(table))) continue;
    for (int64_t t = 0; t < numbers.tiles(); ++t) {
      Wanted& tile = wanted[(*place_of)[index.Of(table)[t]]];
      tile.table = table, tile.tile = t;
    }
  }
  return wanted;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RegionExperts>> RegionExperts::Load(
    const ModelFiles& files, const std::vector<PackHeader>& packs, const DeltaDb& deltas,
    const TileIndex& index, const OpenedRegions& opened, std::unique_ptr<TileReader> reader) {
  std::vector<uint32_t> place_of;
  const std::vector<Wanted> wanted = WantedTiles(index, opened, &place_of);
  const int64_t count = static_cast<int64_t>(wanted.size());
  int64_t stride = 0;
  for (const PackHeader& pack : packs) stride = std::max(stride, pack.stride);
  auto tiles = std::make_shared<Tiles>();
  absl::StatusOr<AlignedBuffer> memory = AlignedBuffer::Allocate(count * stride);
  if (!memory.ok()) return memory.status();
  tiles->memory = *std::move(memory);
  const auto at = [&](uint32_t place) { return tiles->memory.data() + place * stride; };

  TileChecks checks(files, index, deltas, count);
  std::vector<absl::Status> statuses(wanted.size());
  std::latch left(count);
  const auto done = [&](uint64_t tag, const absl::Status& read) {
    const auto place = static_cast<uint32_t>(tag);
    const Wanted& tile = wanted[place];
    if (!read.ok()) {
      statuses[place] = absl::Status(
          read.code(), absl::StrCat(read.message(), " (", index.numbers().Name(tile.table, tile.tile), ")"));
    } else {
      absl::Status status = checks.Complete(tile.content, place, at(place));
      if (status.ok() && !checks.checked(place)) status = checks.Check(tile.content, place, at(place));
      if (!status.ok())
        statuses[place] =
            absl::Status(status.code(), checks.Located(tile.table, tile.tile, status.message()));
    }
    left.count_down();
  };
  if (absl::Status s = reader->Start({at(0), static_cast<size_t>(tiles->memory.size())}, done); !s.ok())
    return s;
  std::vector<TileRead> reads;
  for (uint32_t place = 0; place < wanted.size(); ++place)
    reads.push_back({index.Stored(wanted[place].content).ref, at(place), place});
  reader->Read(reads, ReadUrgency::kAsked);
  left.wait();
  reader.reset();  // before what its threads use
  for (const absl::Status& status : statuses) {
    if (!status.ok()) return status;
  }

  const TableNumbers& numbers = index.numbers();
  for (int64_t table = 0; table < numbers.tables(); ++table) {
    const bool has = opened.Has(numbers.Expert(table));
    for (int64_t t = 0; t < numbers.tiles(); ++t)
      tiles->pointers.push_back(has ? at(place_of[index.Of(table)[t]]) : nullptr);
  }
  return std::unique_ptr<RegionExperts>(new RegionExperts(numbers, opened, std::move(tiles)));
}

absl::StatusOr<ExpertTiles> RegionExperts::Acquire(LayerId layer, ExpertId expert) {
  const int64_t table = numbers_.Number(layer, expert);
  if (table < 0 || !opened_.Has(expert)) return opened_.Refusal(layer, expert);
  const auto count = static_cast<size_t>(numbers_.tiles());
  return ExpertTiles{{&tiles_->pointers[static_cast<size_t>(table) * count], count}, tiles_};
}

}  // namespace omni
