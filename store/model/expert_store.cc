#include "store/model/expert_store.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <absl/strings/str_cat.h>

#include "store/format/delta_db.h"
#include "store/format/tile_delta.h"

namespace omni {
namespace {

constexpr int64_t kDerivedChunkBytes = int64_t{16} << 20;

}  // namespace

const uint8_t* const* ExpertStore::Tiles(LayerId layer, ExpertId expert) const {
  const int64_t table = contents_.numbers().Number(layer, expert);
  return table < 0 ? nullptr : &pointers_[Index(table, 0)];
}

absl::Status ExpertStore::Load(const ModelFiles& files) {
  files_ = &files;
  absl::Status status = LoadPacks(files);
  if (status.ok()) status = LoadTables(files);
  if (status.ok()) status = CheckPacks(files);
  files_ = nullptr;
  return status;
}

absl::Status ExpertStore::LoadPacks(const ModelFiles& files) {
  for (uint32_t number = 0;; ++number) {
    const auto entry = files.manifest.files.find(PackName(number));
    if (entry == files.manifest.files.end()) return absl::OkStatus();
    Pack pack;
    pack.path = files.PathOf(entry->first);
    absl::StatusOr<AlignedBuffer> bytes = ReadAligned(pack.path, entry->second.bytes);
    if (!bytes.ok()) return bytes.status();
    pack.bytes = *std::move(bytes);
    absl::StatusOr<PackHeader> header = ParsePackHeader(
        files, entry->first,
        {reinterpret_cast<const char*>(pack.bytes.data()), static_cast<size_t>(pack.bytes.size())});
    if (!header.ok()) return header.status();
    pack.content.assign(static_cast<size_t>(header->count), kUnchecked);
    pack.ref.resize(static_cast<size_t>(header->count));
    headers_.push_back(*header);
    packs_.push_back(std::move(pack));
  }
}

absl::Status ExpertStore::LoadTables(const ModelFiles& files) {
  const TableNumbers& numbers = contents_.numbers();
  deltas_path_ = files.PathOf(kDeltasFolder);
  if (absl::Status s = CheckTableCount(files, numbers); !s.ok()) return s;
  pointers_.assign(Index(numbers.tables(), 0), nullptr);
  contents_.Allocate();
  absl::StatusOr<DeltaDb> db = DeltaDb::Open(deltas_path_);
  if (!db.ok()) return db.status();
  return ReadTables(files, *db, numbers, *this);
}

absl::Status ExpertStore::Inherit(int64_t table, int64_t keyframe) {
  std::copy_n(&pointers_[Index(keyframe, 0)], tiles_, &pointers_[Index(table, 0)]);
  contents_.Copy(keyframe, table);
  return absl::OkStatus();
}

absl::Status ExpertStore::Stored(int64_t table, int64_t tile, const TileRef& ref) {
  const auto fail = [&](absl::string_view what) {
    return absl::DataLossError(
        absl::StrCat(deltas_path_, ": ", contents_.numbers().Name(table, tile), " ", what, kDamagedCure));
  };
  absl::StatusOr<int64_t> found = FindTile(*files_, headers_, ref);
  if (!found.ok()) return fail(found.status().message());
  Pack& pack = packs_[ref.pack];
  const size_t slot = static_cast<size_t>(*found);
  const uint8_t* bytes = pack.bytes.data() + ref.offset;
  uint32_t& content = pack.content[slot];
  if (content == kUnchecked) {
    if (absl::Status s = CheckContent(pack.path, table, tile, ref, bytes); !s.ok()) return s;
    content = ContentOf(ref.hash, bytes);
    pack.ref[slot] = ref;
  } else if (!(pack.ref[slot] == ref)) {
    return fail("has another checksum than elsewhere");
  }
  pointers_[Index(table, tile)] = bytes;
  contents_.Set(table, tile, content);
  return absl::OkStatus();
}

absl::Status ExpertStore::Scattered(int64_t table, int64_t keyframe, const TileChange& change) {
  absl::StatusOr<uint8_t*> made = NewTile();
  if (!made.ok()) return made.status();
  std::memcpy(*made, pointers_[Index(keyframe, change.tile)], static_cast<size_t>(layout_.payload()));
  if (absl::Status s = ApplyTileDelta(layout_, change.delta, *made); !s.ok()) {
    return absl::DataLossError(absl::StrCat(deltas_path_, ": ", contents_.numbers().Name(table, change.tile),
                                            ": ", s.message(), kDamagedCure));
  }
  if (absl::Status s = CheckContent(deltas_path_, table, change.tile, change.ref, *made); !s.ok()) return s;
  const uint32_t content = ContentOf(change.ref.hash, *made);
  const uint8_t* tile = content_tile_[content];
  if (tile != *made) --derived_used_;  // an equal tile is there already
  pointers_[Index(table, change.tile)] = tile;
  contents_.Set(table, change.tile, content);
  return absl::OkStatus();
}

absl::Status ExpertStore::CheckContent(const std::string& path, int64_t table, int64_t tile,
                                       const TileRef& ref, const uint8_t* bytes) const {
  const absl::Status status = CheckTileContent(layout_, ref, bytes);
  if (status.ok()) return status;
  return absl::DataLossError(
      absl::StrCat(path, ": ", contents_.numbers().Name(table, tile), " ", status.message()));
}

uint32_t ExpertStore::ContentOf(const Hash128& hash, const uint8_t* tile) {
  const uint32_t content = contents_.NumberOf(hash);
  if (content == content_tile_.size()) content_tile_.push_back(tile);
  return content;
}

absl::StatusOr<uint8_t*> ExpertStore::NewTile() {
  const int64_t capacity = std::max<int64_t>(1, kDerivedChunkBytes / layout_.payload());
  if (derived_.empty() || derived_used_ == capacity) {
    absl::StatusOr<AlignedBuffer> chunk = AlignedBuffer::Allocate(capacity * layout_.payload());
    if (!chunk.ok()) return chunk.status();
    derived_.push_back(*std::move(chunk));
    derived_used_ = 0;
  }
  return derived_.back().data() + derived_used_++ * layout_.payload();
}

// The tiles were checked one by one, so that a bad one is named; this covers headers, padding and what
// nothing refers to.
absl::Status ExpertStore::CheckPacks(const ModelFiles& files) const {
  for (size_t number = 0; number < packs_.size(); ++number) {
    const Pack& pack = packs_[number];
    const FileDigest& want = files.manifest.files.at(PackName(static_cast<uint32_t>(number)));
    if (ContentHash(pack.bytes.data(), static_cast<size_t>(pack.bytes.size())) != want.hash) {
      return absl::DataLossError(absl::StrCat(pack.path, ": fails its checksum", kDamagedCure));
    }
    for (size_t slot = 0; slot < pack.content.size(); ++slot) {
      if (pack.content[slot] == kUnchecked) return UnusedTile(pack.path, static_cast<int64_t>(slot));
    }
  }
  return absl::OkStatus();
}

}  // namespace omni
