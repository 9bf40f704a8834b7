#include "store/expert_store.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <absl/strings/str_cat.h>

#include "store/delta_db.h"
#include "store/tile_delta.h"

namespace omni {
namespace {

constexpr char kCure[] = "; the file is damaged: copy it again or repack";
constexpr int64_t kDerivedChunkBytes = int64_t{16} << 20;

}  // namespace

ExpertStore::ExpertStore(const ModelConfig& config)
    : config_(config), layout_(config.d), tiles_(TilesPerExpert(config)) {
  int32_t expert_layers = 0;
  for (int64_t l = 0; l < config.layers; ++l) {
    expert_layer_.push_back(config.IsAttention(l) ? -1 : expert_layers++);
  }
}

int64_t ExpertStore::Index(LayerId layer, ExpertId expert) const {
  if (layer.value < 0 || layer.value >= config_.layers || expert.value < 0 ||
      expert.value >= config_.num_experts() || expert_layer_[layer.index()] < 0) {
    return -1;
  }
  return (expert_layer_[layer.index()] * config_.num_experts() + expert.value) * tiles_;
}

const uint8_t* const* ExpertStore::Tiles(LayerId layer, ExpertId expert) const {
  const int64_t index = Index(layer, expert);
  return index < 0 ? nullptr : &pointers_[static_cast<size_t>(index)];
}

const uint32_t* ExpertStore::Contents(LayerId layer, ExpertId expert) const {
  const int64_t index = Index(layer, expert);
  return index < 0 ? nullptr : &contents_[static_cast<size_t>(index)];
}

absl::Status ExpertStore::Load(const std::string& dir, const Manifest& manifest) {
  if (absl::Status s = LoadPacks(dir, manifest); !s.ok()) return s;
  if (absl::Status s = LoadTables(dir, manifest); !s.ok()) return s;
  return CheckPacks(manifest);
}

absl::Status ExpertStore::LoadPacks(const std::string& dir, const Manifest& manifest) {
  for (uint32_t number = 0;; ++number) {
    const auto entry = manifest.files.find(PackName(number));
    if (entry == manifest.files.end()) return absl::OkStatus();
    Pack pack;
    pack.path = dir + "/" + entry->first;
    absl::StatusOr<AlignedBuffer> bytes = ReadAligned(pack.path, entry->second.bytes);
    if (!bytes.ok()) return bytes.status();
    pack.bytes = *std::move(bytes);
    if (pack.bytes.size() < PackHeader::kBytes) {
      return absl::DataLossError(absl::StrCat(pack.path, ": shorter than its header", kCure));
    }
    absl::StatusOr<PackHeader> header = PackHeader::Parse(pack.path, pack.bytes.data(), layout_.payload());
    if (!header.ok()) return header.status();
    pack.header = *header;
    if (header->file_bytes() != pack.bytes.size()) {
      return absl::DataLossError(absl::StrCat(pack.path, ": ", pack.bytes.size(), " bytes long, ",
                                              header->count, " tiles make ", header->file_bytes(), kCure));
    }
    pack.content.assign(static_cast<size_t>(header->count), kUnchecked);
    pack.ref.resize(static_cast<size_t>(header->count));
    packs_.push_back(std::move(pack));
  }
}

absl::Status ExpertStore::LoadTables(const std::string& dir, const Manifest& manifest) {
  deltas_path_ = dir + "/" + kDeltasFolder;
  int64_t expert_layers = 0;
  for (const int32_t l : expert_layer_) expert_layers += l >= 0;
  const int64_t tables = expert_layers * config_.num_experts();
  // A count from the file itself, before a table of that size is made.
  if (manifest.delta_keys != tables) {
    return absl::DataLossError(absl::StrCat(dir, "/", kModelFile, ": ", manifest.delta_keys,
                                            " delta keys, the config makes ", tables, kCure));
  }
  pointers_.assign(static_cast<size_t>(tables * tiles_), nullptr);
  contents_.assign(static_cast<size_t>(tables * tiles_), kUnchecked);
  DeltaDigest digest;
  absl::Status read = ReadDeltaDb(deltas_path_, [&](std::string_view key, std::string_view value) {
    digest.Add(key, value);
    return AddTable(key, value);
  });
  if (!read.ok()) return read;
  if (digest.hash() != manifest.delta_digest || digest.keys() != manifest.delta_keys) {
    return absl::DataLossError(absl::StrCat(deltas_path_,
                                            ": the database is not the one model.json describes; ",
                                            "copy the whole model directory again or repack"));
  }
  return absl::OkStatus();
}

absl::Status ExpertStore::AddTable(std::string_view key, std::string_view value) {
  LayerId layer;
  ExpertId expert;
  const int64_t index = ParseTableKey(key, &layer, &expert) ? Index(layer, expert) : -1;
  if (index < 0) {
    return absl::DataLossError(absl::StrCat(deltas_path_, ": holds a key of ", key.size(),
                                            " bytes that is no expert of this model; it is another model's: ",
                                            "copy the whole model directory again or repack"));
  }
  absl::StatusOr<TileTable> table = DecodeTable(value, tiles_);
  if (!table.ok()) {
    return absl::DataLossError(absl::StrCat(deltas_path_, ": expert ", expert.value, ", layer ", layer.value,
                                            ": ", table.status().message(), kCure));
  }
  if (table->whole) {
    for (int64_t t = 0; t < tiles_; ++t) {
      if (absl::Status s = SetStored({layer, expert, t}, table->tiles[static_cast<size_t>(t)]); !s.ok())
        return s;
    }
    return absl::OkStatus();
  }
  // Keys ascend and a keyframe is the lowest expert of its region, so that its tiles are known by now.
  const int64_t keyframe = Index(layer, config_.ExpertOf(config_.RegionOf(expert), 0));
  if (keyframe == index || pointers_[static_cast<size_t>(keyframe)] == nullptr) {
    return absl::DataLossError(absl::StrCat(deltas_path_, ": expert ", expert.value, ", layer ", layer.value,
                                            " is a delta, but its keyframe is not there", kCure));
  }
  for (int64_t t = 0; t < tiles_; ++t) {
    pointers_[static_cast<size_t>(index + t)] = pointers_[static_cast<size_t>(keyframe + t)];
    contents_[static_cast<size_t>(index + t)] = contents_[static_cast<size_t>(keyframe + t)];
  }
  for (const TileChange& change : table->changes) {
    const Site site{layer, expert, change.tile};
    absl::Status s = change.inline_delta
                         ? SetInline(site, change, pointers_[static_cast<size_t>(keyframe + change.tile)])
                         : SetStored(site, change.ref);
    if (!s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status ExpertStore::CheckContent(const std::string& path, const Site& site, const TileRef& ref,
                                       const uint8_t* tile) const {
  const std::string where = absl::StrCat(path, ": tile ", site.tile, " of expert ", site.expert.value,
                                         ", layer ", site.layer.value);
  const size_t bytes = static_cast<size_t>(layout_.payload());
  if (Checksum64(tile, bytes) != ref.checksum || ContentHash(tile, bytes) != ref.hash) {
    return absl::DataLossError(absl::StrCat(where, " fails its checksum", kCure));
  }
  if (absl::Status s = CheckTile(layout_, tile); !s.ok()) {
    return absl::DataLossError(
        absl::StrCat(where, " holds what no model may: ", s.message(), "; repack the model"));
  }
  return absl::OkStatus();
}

uint32_t ExpertStore::ContentOf(const Hash128& hash, const uint8_t* tile) {
  return content_.try_emplace(hash, Content{static_cast<uint32_t>(content_.size()), tile})
      .first->second.number;
}

absl::Status ExpertStore::SetStored(const Site& site, const TileRef& ref) {
  const auto fail = [&](absl::string_view what) {
    return absl::DataLossError(absl::StrCat(deltas_path_, ": tile ", site.tile, " of expert ",
                                            site.expert.value, ", layer ", site.layer.value, " ", what,
                                            kCure));
  };
  if (ref.pack >= packs_.size()) return fail(absl::StrCat("lies in pack ", ref.pack, ", which is not there"));
  Pack& pack = packs_[ref.pack];
  const uint64_t first = static_cast<uint64_t>(pack.header.first_offset);
  const uint64_t stride = static_cast<uint64_t>(pack.header.stride);
  const uint64_t slot = ref.offset < first ? UINT64_MAX : (ref.offset - first) / stride;
  if (slot >= pack.content.size() || first + slot * stride != ref.offset) {
    return fail(absl::StrCat("lies at offset ", ref.offset, " of ", pack.path, ", where no tile begins"));
  }
  const uint8_t* tile = pack.bytes.data() + ref.offset;
  uint32_t& content = pack.content[slot];
  if (content == kUnchecked) {
    if (absl::Status s = CheckContent(pack.path, site, ref, tile); !s.ok()) return s;
    content = ContentOf(ref.hash, tile);
    pack.ref[slot] = ref;
  } else if (!(pack.ref[slot] == ref)) {
    return fail("has another checksum than elsewhere");
  }
  const size_t at = static_cast<size_t>(Index(site.layer, site.expert) + site.tile);
  pointers_[at] = tile;
  contents_[at] = content;
  return absl::OkStatus();
}

absl::Status ExpertStore::SetInline(const Site& site, const TileChange& change, const uint8_t* base) {
  const size_t at = static_cast<size_t>(Index(site.layer, site.expert) + site.tile);
  absl::StatusOr<uint8_t*> made = NewTile();
  if (!made.ok()) return made.status();
  std::memcpy(*made, base, static_cast<size_t>(layout_.payload()));
  if (absl::Status s = ApplyTileDelta(layout_, change.delta, *made); !s.ok()) {
    return absl::DataLossError(absl::StrCat(deltas_path_, ": tile ", site.tile, " of expert ",
                                            site.expert.value, ", layer ", site.layer.value, ": ",
                                            s.message(), kCure));
  }
  if (absl::Status s = CheckContent(deltas_path_, site, change.ref, *made); !s.ok()) return s;
  contents_[at] = ContentOf(change.ref.hash, *made);
  pointers_[at] = content_.at(change.ref.hash).tile;
  if (pointers_[at] != *made) --derived_used_;  // an equal tile is there already
  return absl::OkStatus();
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
absl::Status ExpertStore::CheckPacks(const Manifest& manifest) const {
  for (size_t number = 0; number < packs_.size(); ++number) {
    const Pack& pack = packs_[number];
    const FileDigest& want = manifest.files.at(PackName(static_cast<uint32_t>(number)));
    if (ContentHash(pack.bytes.data(), static_cast<size_t>(pack.bytes.size())) != want.hash) {
      return absl::DataLossError(absl::StrCat(pack.path, ": fails its checksum", kCure));
    }
    for (size_t slot = 0; slot < pack.content.size(); ++slot) {
      if (pack.content[slot] != kUnchecked) continue;
      return absl::DataLossError(absl::StrCat(pack.path, ": tile number ", slot,
                                              " of the file belongs to no expert; repack the model"));
    }
  }
  return absl::OkStatus();
}

}  // namespace omni
