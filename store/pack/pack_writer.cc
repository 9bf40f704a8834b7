#include "store/pack/pack_writer.h"

#include <cstring>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "engine/model/neuron_groups.h"
#include "store/file/atomic_dir.h"
#include "store/format/delta_db.h"
#include "store/format/manifest.h"
#include "store/format/tile_delta.h"
#include "store/format/tile_table.h"
#include "store/pack/tile_pack_writer.h"

namespace omni {
namespace {

constexpr int64_t kPageAlignment = 4096, kLineAlignment = 64, kLargestAlignment = int64_t{1} << 20;
constexpr int64_t kLargeTile = int64_t{64} << 10;  // from here on tiles are worth reading with O_DIRECT
constexpr int64_t kLargestInline = int64_t{64} << 10;

class ModelWriter {
 public:
  ModelWriter(PackSource& source, std::string dir, const PackOptions& options, int64_t alignment)
      : source_(source),
        config_(source.config()),
        dir_(std::move(dir)),
        options_(options),
        layout_(config_.d),
        tiles_(TilesPerExpert(config_)),
        packs_(dir_, layout_.payload(), alignment, options.max_pack_bytes) {
    manifest_.config = config_;
    manifest_.counts.tile_alignment = alignment;
    manifest_.counts.whole = options.whole;
    in_all_regions_.assign(static_cast<size_t>(tiles_), true);
    for (const NeuronGroup& group : NeuronGroups(config_)) {
      if (group.kind == NeuronKind::kBase || group.kind == NeuronKind::kMember) continue;
      for (int64_t n = group.first; n < group.first + group.count; ++n)
        in_all_regions_[static_cast<size_t>(n / kTileNeurons)] = false;
    }
  }

  absl::Status Write() {
    for (auto step : {&ModelWriter::WriteTokenizer, &ModelWriter::WriteShared, &ModelWriter::WriteExperts,
                      &ModelWriter::WriteManifests}) {
      if (absl::Status s = (this->*step)(); !s.ok()) return s;
    }
    return absl::OkStatus();
  }

 private:
  std::string PathOf(const std::string& name) const { return dir_ + "/" + name; }
  absl::Status WriteTokenizer() { return WriteFileSynced(PathOf(kTokenizerFile), source_.TokenizerBytes()); }
  absl::Status WriteShared();
  absl::Status WriteExperts();
  absl::Status WriteRegion(LayerId layer, RegionId region, DeltaDbWriter& db);
  absl::StatusOr<TileTable> KeyframeTable(LayerId layer, ExpertId expert);
  absl::StatusOr<TileTable> OtherTable(LayerId layer, ExpertId expert);
  absl::StatusOr<TileRef> Store(const uint8_t* tile);
  absl::StatusOr<TileChange> Change(uint32_t index, const uint8_t* keyframe, const uint8_t* tile);
  void Count(const TileTable& table);
  absl::Status WriteManifests();

  PackSource& source_;
  const ModelConfig& config_;
  std::string dir_;
  const PackOptions& options_;
  TileLayout layout_;
  int64_t tiles_;
  TilePackWriter packs_;
  std::vector<bool> in_all_regions_;     // by tile: of neurons alone that experts of every region have
  std::string keyframe_;                 // the region's keyframe expert: its tiles one after another
  std::vector<TileRef> keyframe_tiles_;  // where they lie
  Manifest manifest_;
};

absl::Status ModelWriter::WriteShared() {
  SharedLayout layout(config_);
  absl::StatusOr<FileWriter> file = FileWriter::Create(PathOf(kSharedFile));
  if (!file.ok()) return file.status();
  if (absl::Status s = file->AppendZeros(layout.table_bytes); !s.ok()) return s;
  for (SharedSection& section : layout.sections) {
    absl::StatusOr<std::string> bytes = source_.Section(section);
    if (!bytes.ok()) return bytes.status();
    section.checksum = Checksum64(bytes->data(), bytes->size());
    if (absl::Status s = file->Append(bytes->data(), section.bytes); !s.ok()) return s;
    if (absl::Status s = file->AppendZeros(PadTo(section.bytes, kLineAlignment) - section.bytes); !s.ok())
      return s;
  }
  const std::string table = layout.EncodeTable();
  if (absl::Status s = file->WriteAt(0, table.data(), static_cast<int64_t>(table.size())); !s.ok()) return s;
  return file->Sync();
}

absl::StatusOr<TileRef> ModelWriter::Store(const uint8_t* tile) {
  const Hash128 hash = ContentHash(tile, static_cast<size_t>(layout_.payload()));
  if (!options_.whole) {
    if (const std::optional<TileRef> found = packs_.Find(hash)) return *found;
  }
  return packs_.Add(tile, hash);
}

absl::StatusOr<TileTable> ModelWriter::KeyframeTable(LayerId layer, ExpertId expert) {
  TileTable table;
  table.whole = true;
  keyframe_.clear();
  for (int64_t t = 0; t < tiles_; ++t) {
    absl::StatusOr<const uint8_t*> tile = source_.Tile(layer, expert, t);
    if (!tile.ok()) return tile.status();
    keyframe_.append(reinterpret_cast<const char*>(*tile), static_cast<size_t>(layout_.payload()));
    absl::StatusOr<TileRef> ref = Store(*tile);
    if (!ref.ok()) return ref.status();
    table.tiles.push_back(*ref);
  }
  keyframe_tiles_ = table.tiles;
  return table;
}

absl::StatusOr<TileChange> ModelWriter::Change(uint32_t index, const uint8_t* keyframe, const uint8_t* tile) {
  TileChange change;
  change.tile = index;
  const Hash128 hash = ContentHash(tile, static_cast<size_t>(layout_.payload()));
  if (const std::optional<TileRef> found = packs_.Find(hash)) {
    change.ref = *found;
    return change;
  }
  // What experts of other regions have too is stored once, and lies in a cache once: as changes to their own
  // regions' keyframes it would be another tile for each of them.
  if (source_.tiles_resemble() && !in_all_regions_[index])
    change.delta = EncodeTileDelta(layout_, keyframe, tile);
  const int64_t length = static_cast<int64_t>(change.delta.size());
  change.inline_delta =
      length > 0 && length < kLargestInline && kInlineBytes + length < kReferenceBytes + packs_.stride();
  if (change.inline_delta) {
    change.ref.hash = hash;
    change.ref.checksum = Checksum64(tile, static_cast<size_t>(layout_.payload()));
    return change;
  }
  change.delta.clear();
  absl::StatusOr<TileRef> ref = packs_.Add(tile, hash);
  if (!ref.ok()) return ref.status();
  change.ref = *ref;
  return change;
}

absl::StatusOr<TileTable> ModelWriter::OtherTable(LayerId layer, ExpertId expert) {
  TileTable delta;
  int64_t inlined = 0;
  for (int64_t t = 0; t < tiles_; ++t) {
    if (source_.EqualsKeyframe(layer, expert, t)) continue;
    absl::StatusOr<const uint8_t*> tile = source_.Tile(layer, expert, t);
    if (!tile.ok()) return tile.status();
    const auto* base = reinterpret_cast<const uint8_t*>(keyframe_.data()) + t * layout_.payload();
    if (std::memcmp(base, *tile, static_cast<size_t>(layout_.payload())) == 0) continue;
    absl::StatusOr<TileChange> change = Change(static_cast<uint32_t>(t), base, *tile);
    if (!change.ok()) return change.status();
    inlined += change->inline_delta;
    delta.changes.push_back(*std::move(change));
  }
  // A whole table cannot hold inline changes; without them its size and the delta's are known exactly.
  const int64_t changes = static_cast<int64_t>(delta.changes.size());
  const bool whole_is_smaller = kReferenceBytes * tiles_ < (kReferenceBytes + kChangeBytes) * changes;
  if (inlined > 0 || !whole_is_smaller) return delta;
  TileTable whole;
  whole.whole = true;
  whole.tiles = keyframe_tiles_;
  for (const TileChange& change : delta.changes) whole.tiles[change.tile] = change.ref;
  return whole;
}

void ModelWriter::Count(const TileTable& table) {
  PackCounts& counts = manifest_.counts;
  ++(table.whole ? counts.whole_tables : counts.delta_tables);
  for (const TileChange& change : table.changes) {
    ++(change.inline_delta ? counts.inline_tiles : counts.changed_tiles);
    counts.inline_bytes += static_cast<int64_t>(change.delta.size());
  }
}

absl::Status ModelWriter::WriteRegion(LayerId layer, RegionId region, DeltaDbWriter& db) {
  for (int64_t i = 0; i < config_.experts_per_region(); ++i) {
    const ExpertId expert = config_.ExpertOf(region, i);
    const bool keyframe = i == 0 || options_.whole;
    absl::StatusOr<TileTable> table = keyframe ? KeyframeTable(layer, expert) : OtherTable(layer, expert);
    if (!table.ok()) return table.status();
    Count(*table);
    if (absl::Status s = db.Put(TableKey(layer, expert), EncodeTable(*table)); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status ModelWriter::WriteExperts() {
  if (!IsDirectory(PathOf(kPacksFolder))) {  // there already if an earlier run is gone on with
    if (absl::Status s = MakeDirectory(PathOf(kPacksFolder)); !s.ok()) return s;
  }
  // Finished pack files that are to be gone on with need a folder that a power cut leaves.
  if (!options_.resume_key.empty()) {
    if (absl::Status s = SyncDirectory(dir_); !s.ok()) return s;
  }
  absl::StatusOr<DeltaDbWriter> db = DeltaDbWriter::Create(PathOf(kDeltasFolder));
  if (!db.ok()) return db.status();
  const double regions = static_cast<double>(config_.num_regions()),
               all = static_cast<double>(config_.layers) * regions;
  for (int64_t l = 0; l < config_.layers; ++l) {
    if (config_.IsAttention(l)) continue;
    for (int64_t r = 0; r < config_.num_regions(); ++r) {
      const LayerId layer(static_cast<int32_t>(l));
      if (absl::Status s = WriteRegion(layer, RegionId(static_cast<int32_t>(r)), *db); !s.ok()) return s;
      if (options_.progress)
        options_.progress((static_cast<double>(l) * regions + static_cast<double>(r + 1)) / all);
    }
  }
  manifest_.counts.stored_tiles = packs_.stored();
  if (absl::Status s = packs_.Finish(); !s.ok()) return s;
  if (options_.kept_files) *options_.kept_files = packs_.kept_files();
  return db->Finish();
}

absl::Status ModelWriter::WriteManifests() {
  DeltaDigest digest;
  absl::Status read = ReadDeltaDb(PathOf(kDeltasFolder), [&](std::string_view key, std::string_view value) {
    digest.Add(key, value);
    return absl::OkStatus();
  });
  if (!read.ok()) return read;
  absl::StatusOr<std::vector<std::string>> names = ListFiles(dir_);
  if (!names.ok()) return names.status();
  DeltaManifest deltas;
  for (const std::string& name : *names) {
    if (name.ends_with('/')) continue;  // packs/ of a model without experts
    const auto known = packs_.digests().find(name);
    absl::StatusOr<FileDigest> file = known != packs_.digests().end()
                                          ? absl::StatusOr<FileDigest>(known->second)
                                          : DigestFile(PathOf(name));
    if (!file.ok()) return file.status();
    (name.starts_with(absl::StrCat(kDeltasFolder, "/")) ? deltas.files : manifest_.files)[name] = *file;
  }
  manifest_.delta_digest = deltas.delta_digest = digest.hash();
  manifest_.delta_keys = digest.keys();
  if (absl::Status s = WriteFileSynced(PathOf(kDeltasFile), deltas.Encode()); !s.ok()) return s;
  return WriteFileSynced(PathOf(kModelFile), manifest_.Encode());
}

absl::StatusOr<int64_t> Alignment(const PackOptions& options, int64_t payload) {
  const int64_t a = options.tile_alignment;
  if (a == 0) return payload >= kLargeTile ? kPageAlignment : kLineAlignment;
  if (a < kLineAlignment || a > kLargestAlignment || (a & (a - 1)) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("tile alignment is ", a,
                                                   "; it must be 0 or a power of two from ", kLineAlignment,
                                                   " to ", kLargestAlignment));
  }
  return a;
}

}  // namespace

absl::Status WriteModel(PackSource& source, const std::string& dir, const PackOptions& options) {
  const absl::StatusOr<int64_t> alignment = Alignment(options, TileLayout(source.config().d).payload());
  if (!alignment.ok()) return alignment.status();
  absl::StatusOr<std::unique_ptr<AtomicDir>> out = AtomicDir::Begin(dir, options.resume_key);
  if (!out.ok()) return out.status();
  ModelWriter writer(source, (*out)->path(), options, *alignment);
  if (absl::Status s = writer.Write(); !s.ok()) return s;
  return (*out)->Commit();
}

}  // namespace omni
