#include "store/model/model.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "engine/model/session_state.h"
#include "store/cache/pack_reader.h"
#include "store/format/delta_db.h"
#include "store/format/model_files.h"
#include "store/format/region_tiles.h"
#include "store/format/shared_weights.h"
#include "store/format/tile_index.h"
#include "store/model/opened_regions.h"
#include "store/model/region_experts.h"
#include "store/model/resident_experts.h"

namespace omni {
namespace {

constexpr int64_t kNoLimit = int64_t{1} << 60;

TileContents ContentsOf(const ModelConfig& config, const TileIndex& index) {
  TileContents contents(config);
  contents.Allocate();
  const TableNumbers& numbers = index.numbers();
  for (int64_t table = 0; table < numbers.tables(); ++table) {
    for (int64_t t = 0; t < numbers.tiles(); ++t)
      contents.Set(table, t, contents.NumberOf(index.tile(index.Of(table)[t]).ref.hash));
  }
  return contents;
}

absl::StatusOr<MemoryPlan> PlanStreamed(const ModelSizes& sizes, const OpenOptions& options) {
  if (!options.cache_bytes.has_value()) {
    const int64_t ram = options.ram_bytes.value_or(0);
    return PlanMemory(sizes, ram, SessionsToPlan(sizes, ram, options.sessions, options.most_sessions));
  }
  absl::StatusOr<MemoryPlan> plan = PlanMemory(sizes, kNoLimit, options.sessions);
  if (!plan.ok()) return plan;
  plan->cache_tiles = std::min(*options.cache_bytes / sizes.tile_stride, plan->unique_tiles);
  plan->ram_bytes = plan->used_bytes();
  return plan;
}

}  // namespace

struct Model::Parts {
  Parts(ModelFiles model_files, const OpenOptions& open_options)
      : files(std::move(model_files)), options(open_options), hash(files.manifest.ModelHash().Hex()) {}

  absl::Status Open(std::unique_ptr<TileReader> reader);
  absl::Status Prepare();    // opened, packs
  absl::Status ReadIndex();  // after Prepare
  int64_t WholeBytes() const;
  absl::Status Plan();
  absl::Status OpenCache(std::unique_ptr<TileReader> reader);
  absl::Status OpenRegions(std::unique_ptr<TileReader> reader);

  bool has_experts() const { return TableNumbers(files.manifest.config).tables() > 0; }
  bool streamed() const { return options.residency == Residency::kStreamed && has_experts(); }
  bool part() const { return !options.regions.empty() && has_experts(); }
  bool planned() const { return options.residency == Residency::kStreamed || options.ram_bytes.has_value(); }

  ModelFiles files;
  const OpenOptions options;
  const std::string hash;
  std::optional<OpenedRegions> opened;
  std::vector<PackHeader> packs;  // if anything needs them

  // Where the tiles lie, if not all of them are loaded; until whoever reads them has it.
  std::optional<DeltaDb> deltas;
  std::unique_ptr<TileIndex> index;
  int64_t opened_tiles = 0;
  ModelStats indexed_stats;

  std::optional<MemoryPlan> plan;
  std::optional<SharedWeights> shared;
  // One of these.
  std::unique_ptr<ResidentExperts> resident;
  std::unique_ptr<RegionExperts> regions;
  std::unique_ptr<ExpertCache> cache;
};

absl::Status Model::Parts::Open(std::unique_ptr<TileReader> reader) {
  if (absl::Status s = Prepare(); !s.ok()) return s;
  // Planned before anything of size is loaded; of given regions the index says what their size is.
  if (planned() && !part()) {
    if (absl::Status s = Plan(); !s.ok()) return s;
  }
  if (absl::Status s = CheckDeltaFiles(files); !s.ok()) return s;
  if (streamed() || part()) {
    if (absl::Status s = ReadIndex(); !s.ok()) return s;
  }
  if (planned() && part()) {
    if (absl::Status s = Plan(); !s.ok()) return s;
  }
  if (options.shared) {
    absl::StatusOr<SharedWeights> loaded = SharedWeights::Load(files);
    if (!loaded.ok()) return loaded.status();
    shared.emplace(*std::move(loaded));
  }
  if (streamed() || part()) {
    if (reader == nullptr) reader = std::make_unique<PackReader>(files, packs, options.reads);
    return streamed() ? OpenCache(std::move(reader)) : OpenRegions(std::move(reader));
  }
  absl::StatusOr<std::unique_ptr<ResidentExperts>> experts = ResidentExperts::Load(files, *opened);
  if (!experts.ok()) return experts.status();
  resident = *std::move(experts);
  return absl::OkStatus();
}

absl::Status Model::Parts::Prepare() {
  absl::StatusOr<OpenedRegions> made = OpenedRegions::Make(files, options.regions);
  if (!made.ok()) return made.status();
  opened.emplace(*std::move(made));
  if (!planned() && !part()) return absl::OkStatus();
  absl::StatusOr<std::vector<PackHeader>> headers = ReadPackHeaders(files);
  if (!headers.ok()) return headers.status();
  packs = *std::move(headers);
  return CheckTableCount(files, TableNumbers(files.manifest.config));
}

absl::Status Model::Parts::ReadIndex() {
  absl::StatusOr<DeltaDb> db = DeltaDb::Open(files.PathOf(kDeltasFolder));
  if (!db.ok()) return db.status();
  deltas.emplace(*std::move(db));
  absl::StatusOr<std::unique_ptr<TileIndex>> read = TileIndex::Read(files, *deltas, packs);
  if (!read.ok()) return read.status();
  index = *std::move(read);
  if (files.present.has_value() && !options.growing) {
    if (absl::Status s = CheckRegionsPresent(files, packs, *index, options.regions); !s.ok()) return s;
  }
  indexed_stats = CountStats(files, ContentsOf(files.manifest.config, *index));
  const std::vector<bool> needed = opened->TilesOf(*index);
  opened_tiles = std::count(needed.begin(), needed.end(), true);
  return absl::OkStatus();
}

int64_t Model::Parts::WholeBytes() const {
  const Manifest& manifest = files.manifest;
  int64_t bytes = part() ? opened_tiles * SizesOf(files, packs).tile_stride
                         : manifest.counts.inline_tiles * TileLayout(manifest.config.d).payload();
  for (const auto& [name, digest] : manifest.files) {
    const bool of_shared = name == kSharedFile || name == kTokenizerFile;
    if (of_shared ? options.shared : !part()) bytes += digest.bytes;
  }
  return bytes;
}

absl::Status Model::Parts::Plan() {
  ModelSizes sizes = SizesOf(files, packs);
  if (!options.shared) sizes.shared_bytes = 0;
  if (part()) sizes.unique_tiles = opened_tiles;
  absl::StatusOr<MemoryPlan> made =
      options.residency == Residency::kStreamed
          ? PlanStreamed(sizes, options)
          : PlanWhole(sizes, WholeBytes(), *options.ram_bytes, options.sessions);
  if (!made.ok())
    return absl::Status(made.status().code(), absl::StrCat(files.dir, ": ", made.status().message()));
  plan = *made;
  return absl::OkStatus();
}

absl::Status Model::Parts::OpenCache(std::unique_ptr<TileReader> reader) {
  TileCacheOptions with_slots = options.cache;
  with_slots.slots = plan->cache_tiles;
  absl::StatusOr<std::unique_ptr<ExpertCache>> made = ExpertCache::Open(
      files, packs, *std::move(deltas), std::move(index), *opened, with_slots, std::move(reader));
  deltas.reset();
  if (!made.ok()) return made.status();
  cache = *std::move(made);
  return absl::OkStatus();
}

absl::Status Model::Parts::OpenRegions(std::unique_ptr<TileReader> reader) {
  absl::StatusOr<std::unique_ptr<RegionExperts>> experts =
      RegionExperts::Load(files, packs, *deltas, *index, *opened, std::move(reader));
  if (!experts.ok()) return experts.status();
  regions = *std::move(experts);
  index.reset();
  deltas.reset();
  return absl::OkStatus();
}

Model::Model(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

const ModelConfig& Model::config() const { return parts_->files.manifest.config; }
bool Model::shared() const { return parts_->shared.has_value(); }
const ModelWeights& Model::weights() const { return parts_->shared->weights(); }
const Tokenizer& Model::tokenizer() const { return parts_->shared->tokenizer(); }
ExpertSource& Model::experts() const {
  if (parts_->cache) return *parts_->cache;
  if (parts_->regions) return *parts_->regions;
  return *parts_->resident;
}
ExpertCache* Model::cache() const { return parts_->cache.get(); }
const MemoryPlan* Model::plan() const { return parts_->plan ? &*parts_->plan : nullptr; }
const std::string& Model::hash() const { return parts_->hash; }
ModelStats Model::stats() const {
  return parts_->resident ? CountStats(parts_->files, parts_->resident->contents()) : parts_->indexed_stats;
}

absl::StatusOr<Model> OpenModel(const std::string& path, const OpenOptions& options,
                                std::unique_ptr<TileReader> reader) {
  const ModelPart wanted = {.tiles = options.regions.empty() && !options.growing, .shared = options.shared};
  absl::StatusOr<ModelFiles> files = ReadModelFiles(path, wanted);
  if (!files.ok()) return files.status();
  auto parts = std::make_unique<Model::Parts>(*std::move(files), options);
  if (absl::Status s = parts->Open(std::move(reader)); !s.ok()) return s;
  return Model(std::move(parts));
}

absl::StatusOr<int64_t> WholeModelBytes(const std::string& path, const OpenOptions& options) {
  ModelFiles files;
  if (options.regions.empty()) {
    absl::StatusOr<std::string> dir = ModelDirectory(path);
    if (!dir.ok()) return dir.status();
    files.dir = *std::move(dir);
    if (absl::Status s = ReadManifest(&files); !s.ok()) return s;
  } else {
    absl::StatusOr<ModelFiles> read = ReadModelFiles(path, {.tiles = false, .shared = options.shared});
    if (!read.ok()) return read.status();
    files = *std::move(read);
  }
  Model::Parts parts(std::move(files), options);
  if (parts.part()) {
    absl::Status status = parts.Prepare();
    if (status.ok()) status = CheckDeltaFiles(parts.files);
    if (status.ok()) status = parts.ReadIndex();
    if (!status.ok()) return status;
  }
  return parts.WholeBytes() + options.sessions * SessionState::BytesFor(parts.files.manifest.config);
}

absl::StatusOr<std::vector<int64_t>> RegionBytes(const std::string& path) {
  absl::StatusOr<ModelFiles> files = ReadModelFiles(path, {.tiles = false, .shared = false});
  if (!files.ok()) return files.status();
  OpenOptions options;
  options.growing = true;
  options.residency = Residency::kStreamed;  // of which the index is read
  Model::Parts parts(*std::move(files), options);
  const ModelConfig& config = parts.files.manifest.config;
  std::vector<int64_t> bytes(static_cast<size_t>(config.num_regions()));
  if (!parts.has_experts()) return bytes;
  absl::Status status = parts.Prepare();
  if (status.ok()) status = CheckDeltaFiles(parts.files);
  if (status.ok()) status = parts.ReadIndex();
  if (!status.ok()) return status;
  const int64_t stride = SizesOf(parts.files, parts.packs).tile_stride;
  for (size_t r = 0; r < bytes.size(); ++r) {
    const RegionId region(static_cast<int32_t>(r));
    const absl::StatusOr<OpenedRegions> opened = OpenedRegions::Make(parts.files, std::span(&region, 1));
    if (!opened.ok()) return opened.status();
    const std::vector<bool> needed = opened->TilesOf(*parts.index);
    bytes[r] = std::count(needed.begin(), needed.end(), true) * stride;
  }
  return bytes;
}

}  // namespace omni
